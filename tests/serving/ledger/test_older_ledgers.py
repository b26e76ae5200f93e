"""Ledgers of the version before, in which each arm had accounts and the experiment had none, go on where they were."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from serving.ledger import Account, AlreadyReserved, Ledger, LedgerUnavailable, Settlement
from serving.ledger.move_to_redis import NotMoved, move_to_redis
from serving.ledger.redis_ledger import RedisLedger
from tests.repository import ROOT
from tests.serving.ledgers import KINDS, Place, balance

GOLDEN = ROOT / "tests" / "serving" / "golden" / "ledger-2"
ACCOUNTS = [
    *(Account(arm, "*", "*", limit) for arm, limit in {"*": 10.0, "incumbent": 9.0, "challenger": 1.0}.items()),
    *(Account(arm, "c1", "*", limit, "day") for arm, limit in {"*": 2.0, "incumbent": 2.0, "challenger": 0.0}.items()),
]


def older(kind: str, folder: Path, port: int) -> Place:
    """A ledger that the version before left: 2.5 spent, one reservation open, one expired and one cancelled."""
    place = Place(kind, folder, port)
    if kind == "sqlite":
        with closing(sqlite3.connect(place.path)) as db:
            db.executescript((GOLDEN / "tables.sql").read_text())
    else:
        with place.client() as client:
            for command, key, *rest in json.loads((GOLDEN / "redis.json").read_text()):
                client.execute_command(command, f"{{mtorl-ledger:{place.name}}}:{key}", *rest)
    return place


def check(ledger: Ledger) -> None:
    """The golden ledger, with the accounts of this version."""
    shown = {(b.arm, b.period): (b.limit, b.spent, b.reserved) for b in ledger.balances()}
    assert shown == {
        ("*", "total"): (10.0, 2.5, 0.5),
        ("incumbent", "total"): (6.75, 0.0, 0.0),
        ("challenger", "total"): (3.25, 2.5, 0.5),
        ("*", "day"): (2.0, 0.0, 0.5),
        ("incumbent", "day"): (2.0, 0.0, 0.0),
        ("challenger", "day"): (0.5, 0.0, 0.5),
    }
    assert ledger.settle("settled", 2.5, "again") == Settlement(2.5, 0.0)  # its event is not known: it counts once
    ledger.settle("open", 0.4, "e")
    assert ledger.settle("expired", 0.1, "e") == Settlement(0.1, 0.0)
    assert [balance(ledger, arm).spent for arm in ("*", "challenger")] == [3.0, 3.0]
    assert balance(ledger, "*", "c1", period="day").spent == 0.5
    with pytest.raises(AlreadyReserved):
        ledger.reserve("another", "incumbent", "c2", "x", 0.1, "of settled")
    assert ledger.reserve("new", "incumbent", "c2", "x", 6.75) and not ledger.reserve(
        "more", "incumbent", "c2", "x", 0.3
    )
    assert balance(ledger, "*").reserved == 6.75


@pytest.mark.parametrize("kind", KINDS)
def test_what_arms_had_spent_the_experiment_has_spent(kind: str, tmp_path: Path, lasting_redis: int) -> None:
    ledger = older(kind, tmp_path, lasting_redis).open()
    for _ in range(2):
        ledger.define(ACCOUNTS)
    check(ledger)


@pytest.mark.parametrize("kind", KINDS)
def test_another_time_zone_comes_with_the_update_and_opens_no_second_day(
    kind: str, tmp_path: Path, lasting_redis: int
) -> None:
    ledger = older(kind, tmp_path, lasting_redis).open()
    ledger.define([replace(account, timezone="Atlantic/Azores") for account in ACCOUNTS])
    check(ledger)


def test_a_router_of_the_version_before_spends_no_more(tmp_path: Path, lasting_redis: int) -> None:
    """It would not draw on the experiment's account: its generation is gone, and with it its right to spend."""
    place = older("redis", tmp_path, lasting_redis)
    before, key = place.open(), f"{{mtorl-ledger:{place.name}}}:generation"
    with pytest.raises(LedgerUnavailable, match="of the version before"):
        before.balances()
    with place.client() as client:
        old = client.get(key)
        place.open().define(ACCOUNTS)
        assert client.get(key) != old
    assert place.open().identity() == old


def test_it_moves_as_one_of_this_version(tmp_path: Path, lasting_redis: int) -> None:
    place, other = older("sqlite", tmp_path, lasting_redis), Place("redis", tmp_path, lasting_redis)
    target = other.open()
    assert isinstance(target, RedisLedger)
    move_to_redis(place.path, target)
    ledger = other.open()
    ledger.define(ACCOUNTS)
    check(ledger)


@pytest.mark.parametrize("mark", [-2, -102])
def test_one_that_was_moved_or_is_on_its_way_stays_so(tmp_path: Path, lasting_redis: int, mark: int) -> None:
    place, other = older("sqlite", tmp_path, lasting_redis), Place("redis", tmp_path, lasting_redis)
    target = other.open()
    assert isinstance(target, RedisLedger)
    with closing(sqlite3.connect(place.path)) as db:
        db.execute("CREATE TABLE moved (generation TEXT NOT NULL, target TEXT)")
        db.execute("INSERT INTO moved VALUES ('g1', ?)", (str(target),))
        db.execute(f"PRAGMA user_version = {mark}")
        db.commit()
    with pytest.raises(LedgerUnavailable, match="moved to Redis" if mark == -2 else "move to Redis was stopped"):
        place.open().define(ACCOUNTS)
    if mark == -2:
        with pytest.raises(NotMoved, match="has lost the accounts"):
            move_to_redis(place.path, target)
        with place.client() as client:
            client.set(f"{target.prefix}generation", "g1")
    assert move_to_redis(place.path, target).before == (mark == -2)
    assert target.identity() == "g1"
