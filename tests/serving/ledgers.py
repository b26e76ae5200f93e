"""Both kinds of ledger, a clock that tests set, and a look behind the ledger's back."""

from __future__ import annotations

import glob
import json
import sqlite3
import tempfile
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

from mtorl.experiment.experiment import Experiment
from serving.ledger import Account, Balance, Ledger, SqliteLedger
from serving.ledger.location import RedisLocation
from serving.ledger.redis_ledger import RedisLedger
from tests.experiments import experiment

KINDS = ("sqlite", "redis")
NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Place:
    kind: str
    folder: Path
    port: int
    clock: Clock = field(default_factory=Clock)
    steady: Clock | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def path(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def where(self) -> str:
        return str(self.path) if self.kind == "sqlite" else f"redis://127.0.0.1:{self.port}?name={self.name}"

    def open(self, patience: float = 5.0) -> Ledger:
        if self.kind == "sqlite":
            return SqliteLedger(self.path, patience, self.clock, self.steady)
        return RedisLedger(RedisLocation.parse(self.where), None, patience, self.clock, self.steady)

    def client(self) -> Any:
        return redis.Redis(port=self.port, decode_responses=True)

    @cached_property
    def _looker(self) -> Any:
        return self.client()

    def books(self) -> dict[tuple[str, ...], list[int]]:
        """(arm, campaign, channel, period, start) -> spent, reserved and excess of every book that is not empty."""
        found: dict[tuple[str, ...], list[int]] = {}
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as db:
                rows = db.execute(
                    "SELECT arm, campaign, channel, period, book.start, spent, reserved, excess "
                    "FROM book JOIN account ON account.id = book.account"
                )
                found = {(*row[:4], str(row[4])): list(row[5:]) for row in rows}
        else:
            prefix = f"{{mtorl-ledger:{self.name}}}:"
            for key in self._looker.scan_iter(f"{glob.escape(prefix)}*", 1000):
                kind, _, rest = key.removeprefix(prefix).partition(":")
                if kind not in ("accounts", "past"):
                    continue
                campaign = json.loads(rest if kind == "accounts" else rest.partition(":")[2])
                fields = self._looker.hgetall(key)
                for name, text in fields.items():
                    if name in ("generation", "changes") or name.startswith("excess:"):
                        continue
                    for account in text.split(";")[:-1] if kind == "accounts" else [text]:
                        amounts = account.split(" ")
                        period, start = amounts[0], amounts[3] if kind == "accounts" else name.partition(":")[0]
                        full = f"{name},{period}" if kind == "accounts" else name.partition(":")[2]
                        *names, period = json.loads(f'[{full.rpartition(",")[0]},"{full.rpartition(",")[2]}"]')
                        excess = fields.get(f"excess:{full if kind == 'accounts' else name}", 0)
                        found[names[0], campaign, names[1], period, start] = [*map(int, amounts[-2:]), int(excess)]
        return {key: book for key, book in found.items() if any(book)}


def balance(ledger: Ledger, arm: str = "a", campaign: str = "*", channel: str = "*", period: str = "total") -> Balance:
    scope = (arm, campaign, channel, period)
    (found,) = [b for b in ledger.balances() if (b.arm, b.campaign, b.channel, b.period) == scope]
    return found


def accounts_of(**changes: Any) -> list[Account]:
    """Of an experiment with these changes, as the router gives them to the ledger."""
    found = Experiment.from_dict(experiment("http://x", **changes)).accounts()
    return [Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in found]


def arms(**weights: float) -> list[dict[str, Any]]:
    """Challengers of an experiment by their weights; the incumbent has the rest."""
    rest = 1.0 - sum(weights.values())
    return [{"name": n, "weight": w, "endpoint": "http://x"} for n, w in {"incumbent": rest, **weights}.items()]


class LedgerMachine(RuleBasedStateMachine):
    """A ledger of its own for each sequence of calls; `cases` gives the kind and the port."""

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
        if self.kind == "redis":
            with self.place.client() as client:
                for key in client.scan_iter(f"{{mtorl-ledger:{self.place.name}}}:*", 1000):
                    client.delete(key)


def cases(machine: type[LedgerMachine], steps: int) -> list[Any]:
    def case(kind: str) -> Any:
        own: Any = type(f"{kind}{machine.__module__}", (machine,), {"kind": kind})
        limits = settings(
            max_examples=100, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        )

        @pytest.mark.integration
        class Case(own.TestCase):  # type: ignore[misc]
            settings = limits

            @pytest.fixture(autouse=True)
            def _server(self, lasting_redis: int) -> None:
                own.port = lasting_redis

        return Case

    return [case(kind) for kind in KINDS]
