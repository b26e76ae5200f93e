"""Connects to the Redis server or cluster of a shared ledger, and runs Lua scripts on it.

All keys of a group have the same hash tag, so that one script may use all of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from hashlib import sha1
from itertools import count
from pathlib import Path
from typing import Any

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError, NoScriptError, RedisError, TimeoutError
from redis.retry import Retry

from mtorl.log.decision_ids import CAMPAIGN_SLOTS
from serving import messages
from serving.ledger.contract import LedgerUnavailable
from serving.ledger.location import RedisLocation

Call = tuple[list[str], list[Any]]
"""A call of a Lua script: its keys and its arguments."""

TOGETHER = 20  # most calls in one pipeline
_LUA = Path(__file__).parent / "redis_scripts"
_BEGINS_WITH = {  # script -> Lua file with its functions, besides `common`
    **dict.fromkeys(("settle", "cancel", "expire"), "finish"),
    **dict.fromkeys(("define", "begin"), "periods"),
}


class RedisServer:
    """A client of a Redis server or cluster. Calls may raise LedgerUnavailable."""

    def __init__(self, location: RedisLocation, password: str | None, patience: float) -> None:
        self.name = str(location)
        self.cluster = location.cluster
        name = f"mtorl-ledger:{location.name}"
        self.prefix = f"{{{name}}}:"  # key prefix of the first group of keys
        self.groups = _spread_evenly(name) if self.cluster else [self.prefix]
        self.checked = False
        self._arguments: dict[str, Any] = {
            "host": location.host,
            "port": location.port,
            "username": location.username,
            "password": password,
            "ssl": location.tls,
            "socket_timeout": patience,
            "socket_connect_timeout": patience,
            "decode_responses": True,
            # The server may have closed an idle connection. Every script is idempotent.
            "retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            **({} if location.cluster else {"db": location.database}),
        }

    @cached_property
    def client(self) -> Any:
        """Typed as Any, because the client's types also allow asyncio results."""
        return (RedisCluster if self.cluster else Redis)(**self._arguments)

    def run_all(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run a script for each call, in one round trip per node; returns results or LedgerUnavailable."""
        (text, digest), answers = _script(name), list[Any]()
        # A restarted node does not know the script's hash.
        for script in (("EVALSHA", digest), ("EVAL", text)):
            with self.pipeline() as pipeline:
                for keys, arguments in calls:
                    # Otherwise, the client would ask a node which arguments are keys.
                    node = {"target_nodes": self.client.get_node_from_key(keys[0])} if self.cluster else {}
                    pipeline.execute_command(*script, len(keys), *keys, *arguments, **node)
                answers = pipeline.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                break
        return [LedgerUnavailable(f"{self.name}: {a}") if isinstance(a, RedisError) else a for a in answers]

    def run_by_node(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Call `run_all` for each node, so that a node that is down fails only its own calls."""
        of_nodes: defaultdict[str, list[int]] = defaultdict(list)
        with self.errors():
            for i, (keys, _) in enumerate(calls):
                of_nodes[self.client.get_node_from_key(keys[0]).name if self.cluster else ""].append(i)
        answers: dict[int, Any] = {}
        for places in of_nodes.values():
            try:
                found = self.run_all(name, [calls[i] for i in places])
            except LedgerUnavailable as error:
                found = [error] * len(places)
            answers.update(zip(places, found, strict=True))
        return [answers[i] for i in range(len(calls))]

    def run_each(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Call `run_all` with small batches; raises the first error."""
        answers: list[Any] = []
        for i in range(0, len(calls), TOGETHER):
            answers += self.run_all(name, calls[i : i + TOGETHER])
            for answer in answers[i:]:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def run(self, name: str, call: Call) -> Any:
        """Run a script once; returns its result, or raises its error."""
        return self.run_each(name, [call])[0]

    def hashes(self, keys: Iterable[str]) -> list[dict[str, str]]:
        """Read several Redis hashes."""
        with self.pipeline() as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            return list(pipeline.execute())

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        """Send several commands in one round trip, without a transaction."""
        with self.errors(), self.client.pipeline(transaction=False) as pipeline:
            yield pipeline

    def now(self) -> float:
        """Return the server's time in seconds since 1970."""
        with self.errors():
            seconds, micros = self.client.time()
        return float(seconds + micros / 1e6)

    def check(self) -> None:
        """Raise LedgerUnavailable unless every node writes its data to disk, and evicts no key."""
        if self.checked:
            return
        if not all(of["aof_enabled"] for of in self.info("persistence")):
            setting = "appendonly yes' and 'appendfsync always"
            raise LedgerUnavailable(messages.LEDGER_FORGETS(ledger=self.name, setting=setting))
        for memory in self.info("memory"):
            if memory["maxmemory"] and memory["maxmemory_policy"] != "noeviction":
                setting = "maxmemory-policy noeviction"
                raise LedgerUnavailable(messages.LEDGER_FORGETS(ledger=self.name, setting=setting))
        self.checked = True

    def info(self, section: str) -> list[dict[str, Any]]:
        """Return a section of the command INFO for each primary node that is up."""
        with self.errors():
            if not self.cluster:
                return [self.client.info(section)]
            found = []
            for node in self.client.get_primaries():
                # the other nodes must go on serving their campaigns
                with suppress(ConnectionError, TimeoutError):
                    found.append(self.client.get_redis_connection(node).info(section))
            return found

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert errors of the Redis client to LedgerUnavailable."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise LedgerUnavailable(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Close the connections. The next call opens them again."""
        if (client := self.__dict__.pop("client", None)) is not None:
            client.close()


def _spread_evenly(name: str) -> list[str]:
    """Return 16 key prefixes that are spread evenly over a cluster's nodes."""
    found: dict[int, str] = {}
    for number in count():
        tag = f"{name}:{number}"
        found.setdefault(key_slot(tag.encode()) * CAMPAIGN_SLOTS // REDIS_CLUSTER_HASH_SLOTS, f"{{{tag}}}:")
        if len(found) == CAMPAIGN_SLOTS:
            break
    return [found[part] for part in sorted(found)]


@cache
def _script(name: str) -> tuple[str, str]:
    before = () if name.startswith("pacing_") else ("common", _BEGINS_WITH.get(name))
    text = "".join((_LUA / f"{part}.lua").read_text() for part in (*before, name) if part)
    return text, sha1(text.encode()).hexdigest()
