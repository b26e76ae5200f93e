"""All kinds of ledger with a settable clock and direct reads of the stored data."""

import json
import sqlite3
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine

from mtorl.experiment.experiment import Experiment
from serving.ledger.contract import Account, Balance, Cost, Ledger, Settlement, Wanted
from serving.ledger.location import RedisLocation
from serving.ledger.redis_ledger import RedisLedger
from serving.ledger.sqlite_ledger import SqliteLedger
from tests.experiments import experiment
from tests.properties import examples

T = TypeVar("T")
KINDS = ("sqlite", "redis")
NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


class ClusterLedger(RedisLedger):
    """A ledger on Redis Cluster that accepts short ids.

    A real id contains the slot of its campaign. `groups` maps each short id to a group of slots instead.
    """

    def __init__(self, groups: dict[str, str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._place_of = groups
        assert self._slices is not None
        self._slices.recall_seconds = 0.0

    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        return [self._reserved(one) for one in wanted]

    def _reserved(self, one: Wanted) -> bool | Exception:
        group, known = self._group(one.campaign), self._place_of.get(one.reservation_id)
        if known not in (None, group):
            return False
        self._place_of[one.reservation_id] = group
        (answer,) = super().reserve_all([one])
        if answer is False and known is None:
            del self._place_of[one.reservation_id]
        return answer

    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        for name in reservation_ids:
            self._place_of.setdefault(name, super()._group_of(name))
        return super().cancel_all(reservation_ids)

    def _group_of(self, reservation_id: str) -> str:
        return self._place_of.get(reservation_id) or super()._group_of(reservation_id)


@dataclass
class Place:
    kind: str
    folder: Path
    port: int
    clock: Clock = field(default_factory=Clock)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    groups: dict[str, str] = field(default_factory=dict)  # groups of a cluster's reservations, by id

    @property
    def path(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def where(self) -> str:
        scheme = "redis+cluster" if self.kind == "cluster" else "redis"
        return str(self.path) if self.kind == "sqlite" else f"{scheme}://127.0.0.1:{self.port}?name={self.name}"

    def open(self, patience: float = 5.0) -> Ledger:
        if self.kind == "sqlite":
            return SqliteLedger(self.path, patience, self.clock)
        location = RedisLocation.parse(self.where)
        if self.kind == "cluster":
            return ClusterLedger(self.groups, location, None, patience, self.clock)
        return RedisLedger(location, None, patience, self.clock)

    def client(self) -> Any:
        if self.kind == "cluster":
            return redis.RedisCluster(host="127.0.0.1", port=self.port, decode_responses=True)
        return redis.Redis(port=self.port, decode_responses=True)

    @cached_property
    def _looker(self) -> Any:
        return self.client()

    def accounts(self) -> Iterator[tuple[bool, tuple[str, ...], list[int]]]:
        """Yield each account in Redis: whether it is in the bank, its key, and [cap, spent, reserved, excess]."""
        for key in self._looker.scan_iter(f"{{mtorl-ledger:{self.name}*", 1000):
            tag, _, rest = key.partition("}:")
            kind, _, rest = rest.partition(":")
            if kind not in ("accounts", "past"):
                continue
            campaign, now = json.loads(rest if kind == "accounts" else rest.partition(":")[2]), kind == "accounts"
            fields = self._looker.hgetall(key)
            for name, text in fields.items():
                if name in ("generation", "changes", "made") or name.startswith(("excess:", "epoch:")):
                    continue
                for account in text.split(";")[:-1] if now else [text]:
                    words = account.split(" ")
                    start, _, full = ("", "", f"{name},{words[0]}") if now else name.partition(":")
                    scope, _, period = full.rpartition(",")
                    arm, channel = json.loads(f"[{scope}]")
                    excess = fields.get(f"excess:{full if now else name}", 0)
                    amounts = [int(amount) for amount in (*words[-3:], excess)]
                    bank = self.kind == "cluster" and tag.endswith(self.name)
                    yield bank, (arm, campaign, channel, period, words[3] if now else start), amounts

    def books(self) -> dict[tuple[str, ...], list[int]]:
        """Return nonzero (spent, reserved, excess) in nano-units by (arm, campaign, channel, period, start)."""
        found: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as db:
                rows = db.execute(
                    "SELECT arm, campaign, channel, period, book.start, spent, reserved, excess "
                    "FROM book JOIN account ON account.id = book.account"
                )
                found.update({(*row[:4], str(row[4])): list(row[5:]) for row in rows})
        else:
            for bank, key, (_, *amounts) in self.accounts():
                if not bank:
                    found[key] = [sum(pair) for pair in zip(found[key], amounts, strict=True)]
        return {key: book for key, book in found.items() if any(book)}


def reserve(
    ledger: Ledger, name: str, arm: str, campaign: str, channel: str, amount: float, request: str | None = None
) -> bool:
    return _only(ledger.reserve_all([Wanted(name, arm, campaign, channel, amount, request)]))


def settle(ledger: Ledger, name: str, actual: float, event: str = "") -> Settlement:
    return _only(ledger.settle_all([Cost(name, actual, event)]))


def cancel(ledger: Ledger, name: str) -> None:
    return _only(ledger.cancel_all([name]))


def _only(answers: Sequence[T | Exception]) -> T:
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


def balance(ledger: Ledger, arm: str = "a", campaign: str = "*", channel: str = "*", period: str = "total") -> Balance:
    scope = (arm, campaign, channel, period)
    (found,) = [b for b in ledger.balances() if (b.arm, b.campaign, b.channel, b.period) == scope]
    return found


def accounts_of(**changes: Any) -> list[Account]:
    found = Experiment.from_dict(experiment("http://x", **changes)).accounts()
    return [Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in found]


def arms(**weights: float) -> list[dict[str, Any]]:
    """Return arms in which the challengers have `weights` and the incumbent has the rest."""
    rest = 1.0 - sum(weights.values())
    return [{"name": n, "weight": w, "endpoint": "http://x"} for n, w in {"incumbent": rest, **weights}.items()]


class LedgerMachine(RuleBasedStateMachine):
    """A state machine that creates a new ledger for each sequence of calls."""

    kind: ClassVar[str]
    port: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.place = Place(self.kind, Path(self.folder.name), self.port)
        self.ledger = self.place.open()

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()
        if self.kind != "sqlite":
            with self.place.client() as client:
                for key in client.scan_iter(f"{{mtorl-ledger:{self.place.name}*", 1000):
                    client.delete(key)


def cases(machine: type[LedgerMachine], steps: int) -> list[Any]:
    def case(kind: str) -> Any:
        own: Any = type(f"{kind}{machine.__module__}", (machine,), {"kind": kind})
        limits = settings(
            max_examples=examples(4, 10) if kind == "cluster" else examples(40, 100),
            stateful_step_count=steps,
            deadline=None,
            phases=[phase for phase in Phase if kind != "cluster" or phase is not Phase.shrink],  # shrinking is slow
            suppress_health_check=list(HealthCheck),
        )

        @pytest.mark.integration
        class Case(own.TestCase):  # type: ignore[misc]
            settings = limits

            @pytest.fixture(autouse=True)
            def _server(self, request: pytest.FixtureRequest, lasting_redis: int) -> None:
                own.port = request.getfixturevalue("lasting_cluster") if kind == "cluster" else lasting_redis

        return Case

    return [case(kind) for kind in (*KINDS, "cluster")]
