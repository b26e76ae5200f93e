"""Pacing's part of a ledger in Redis; `PacingStore` says what its methods promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from typing_extensions import override

from serving.ledger.pacing_store import CHANGES_KEPT, Lease, PacingStore

_LUA = Path(__file__).parent / "redis_scripts"
_GAIN_SECONDS = 60


class RedisPacing(PacingStore):
    """Five keys of one slot.

    Args:
        prefix: Of the keys, with the hash tag.
        errors: Turns the client's errors into LedgerUnavailable.
    """

    def __init__(self, client: Any, prefix: str, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._client = client
        self._errors = errors
        names = ("lease", "states", "changes", "opportunities", "gains")
        self._lease, self._states, self._changes, self._opportunities, self._gains = (
            f"{prefix}pacing:{name}" for name in names
        )
        self._scripts = {
            name: client.register_script((_LUA / f"pacing_{name}.lua").read_text()) for name in ("lease", "publish")
        }

    @override
    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        seen = "" if silent is None else f"{silent.number} {silent.renewed} {silent.holder}"
        with self._errors():
            number, renewed, holder = self._scripts["lease"]([self._lease], [owner, seen]).split(" ", 2)
        return Lease(holder, int(number), int(renewed))

    @override
    def publish(self, lease: Lease, states: Mapping[str, str], prices: str) -> int | None:
        arguments = [lease.number, CHANGES_KEPT, prices]
        for account, state in states.items():
            arguments += (account, state)
        with self._errors():
            version = self._scripts["publish"]([self._lease, self._states, self._changes], arguments)
        return None if version is None else int(version)

    @override
    def changes(self, since: int) -> tuple[int, list[str]] | None:
        with self._errors():
            newest = int(self._client.hget(self._changes, "version") or 0)
            if newest == since:
                return newest, []
            if not since < newest <= since + CHANGES_KEPT:
                return None
            found = self._client.hmget(self._changes, list(range(since + 1, newest + 1)))
        return None if None in found else (newest, found)

    @override
    def everything(self) -> tuple[int, dict[str, str]]:
        with self._errors():  # the version first: changes that come in between are read twice, and none is missed
            return int(self._client.hget(self._changes, "version") or 0), self._client.hgetall(self._states)

    @override
    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        with self._errors(), self._client.pipeline(transaction=False) as pipeline:
            for account, number in opportunities.items():
                pipeline.hincrby(self._opportunities, account, number)
            if gains:
                pipeline.hset(self._gains, mapping=dict(gains))
                pipeline.expire(self._gains, _GAIN_SECONDS)
            pipeline.execute()

    @override
    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        with self._errors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(self._opportunities)
            pipeline.hgetall(self._gains)
            opportunities, gains = pipeline.execute()
        return (
            {account: int(number) for account, number in opportunities.items()},
            {campaign: float(gain) for campaign, gain in gains.items()},
        )
