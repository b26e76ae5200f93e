"""Stores the data of budget pacing in Redis."""

from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping

from typing_extensions import override

from serving.ledger.contract import digest
from serving.ledger.pacing_store import Lease, PacingStore, Prices
from serving.ledger.redis_server import RedisServer

_GAIN_SECONDS = 60


class RedisPacing(PacingStore):
    """Stores the pacing data of a ledger in five Redis keys of one slot, because scripts use several of the keys."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        names = ("lease", "states", "prices", "opportunities", "gains")
        self._lease, self._states, self._prices, self._opportunities, self._gains = (
            f"{server.prefix}pacing:{name}" for name in names
        )
        # the last list of account names, and its hash
        self._names, self._digest = "", ""

    @override
    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        seen = "" if silent is None else f"{silent.number} {silent.renewed} {silent.holder}"
        held, version = self._server.run("pacing_lease", ([self._lease, self._prices], [owner, seen]))
        number, renewed, holder = held.split(" ", 2)
        return Lease(holder, int(number), int(renewed), int(version))

    @override
    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        if prices.names != self._names:
            self._names, self._digest = prices.names, digest(prices.names)
        arguments = [lease.number, self._digest, prices.names, b64encode(prices.values).decode()]
        for account, state in states.items():
            arguments += (account, state)
        return bool(self._server.run("pacing_publish", ([self._lease, self._states, self._prices], arguments)))

    @override
    def prices(self) -> tuple[int, Prices]:
        fields = ["version", "digest", "values"]
        with self._server.errors():
            version, named, packed, *names = self._server.client.hmget(self._prices, fields)
            if named != self._digest:
                version, named, packed, *names = self._server.client.hmget(self._prices, [*fields, "names"])
        if names:
            self._names, self._digest = names[0] or "", named
        return int(version or 0), Prices(self._names, array("d", b64decode(packed or "")))

    @override
    def states(self) -> dict[str, str]:
        (states,) = self._server.hashes([self._states])
        return states

    @override
    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        with self._server.pipeline() as pipeline:
            for account, number in opportunities.items():
                pipeline.hincrby(self._opportunities, account, number)
            if gains:
                pipeline.hset(self._gains, mapping=dict(gains))
                pipeline.expire(self._gains, _GAIN_SECONDS)
            pipeline.execute()

    @override
    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        opportunities, gains = self._server.hashes([self._opportunities, self._gains])
        return (
            {account: int(number) for account, number in opportunities.items()},
            {campaign: float(gain) for campaign, gain in gains.items()},
        )
