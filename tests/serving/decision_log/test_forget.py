"""Tests of removing a user from a router's decision log.

A spool is a router's folder of records to upload. An unused spool is rewritten. A router that uses its spool skips the
user's records in its uploads.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import orjson
import pytest

from features.forget.folder import forget as forget_in
from mtorl.log.decision_ids import decision_id
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake
from mtorl.log.records import unit_hash
from serving.crash_recovery import reconcile
from serving.decision_log import Spool, forget, segments
from serving.decision_log.forget import SpoolWithout, forget_in_spools, forget_users
from serving.ledger.contract import Account
from serving.ledger.sqlite_ledger import SqliteLedger
from tests.lakes import id_of
from tests.serving.decision_log.test_lake_sink import found, upload
from tests.serving.ledgers import reserve
from tests.serving.shipping import SHIPPED, put

START = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
LATER = START + timedelta(days=2)


def fill(spool: Spool, first: int = 0, number: int = 30) -> None:
    for i in range(first, first + number):
        user, at = ("gone", "stays")[i % 2], (START + timedelta(minutes=i)).isoformat()
        name = made_id(i)
        put(spool, "decision", name, user_id=user, unit_hash=unit_hash(user), reservation_id=name, event_time=at)
        put(spool, "outcome", f"e{i}", decision_id=name, kind="cost", event_time=at)
        put(spool, "shadow", f"{name}-arm", decision_id=name, event_time=at)
        put(spool, "window", name, unit_hash=unit_hash(user), event_time=at)


def made_id(i: int) -> str:
    return id_of(f"d{i}", START + timedelta(minutes=i), ("gone", "stays")[i % 2])


def odd(number: int) -> list[str]:
    return [made_id(i) for i in range(number) if i % 2]


def test_an_unused_spool_loses_only_the_users_records(spool: Spool) -> None:
    fill(spool)
    spool.close()
    before = {kind: list(segments.read(spool.folder, kind)) for kind in ("decision", "outcome", "shadow")}
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(60, 0, held=False)
    for kind, records in before.items():
        assert list(segments.read(spool.folder, kind)) == [r for r in records if r["decision_id"] in odd(30)]
    assert not any(b"gone" in path.read_bytes() for path in spool.folder.iterdir())
    files = {path: path.read_bytes() for path in spool.folder.iterdir()}
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(0, 0, held=False)
    assert {path: path.read_bytes() for path in spool.folder.iterdir()} == files


def test_the_next_router_continues_and_ships_everything_once(spool: Spool, tmp_path: Path) -> None:
    fill(spool)
    lake = Lake.open(tmp_path / "lake")
    upload(spool, lake)
    spool.close()
    Forgotten.add(tmp_path, ["gone"], LATER)
    assert list(forget_in_spools(tmp_path, {"gone"}, LATER)) == ["spool"]
    with_more = Spool(spool.folder, segment_bytes=20_000)
    fill(with_more, 30, 10)
    upload(with_more, lake)
    with_more.close()
    assert [name for name in found(lake) if name in odd(40)] == odd(40)
    assert made_id(38) not in found(lake), "uploads omit the forgotten user"


def test_an_interrupted_removal_is_completed_by_the_next(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spool)
    whole = next(iter(segments.segments(spool.folder, "decision"))).read_bytes().splitlines(keepends=True)
    for line in (*whole, b'{"decision_id": "d99", "user_id":"gone", "ca\n'):
        spool.set_aside("decision", orjson.dumps({"reason": "no", "record": line.decode()}) + b"\n")
    spool.close()
    with max(segments.segments(spool.folder, "outcome")).open("ab") as file:
        file.write(b'{"event_id": "cut", "decision_id": "' + made_id(0).encode() + b'"}')  # cut before its newline
    remove = forget._remove
    files = len(list(forget._files(spool.folder)))
    for steps in [*range(files), files]:
        left = iter(range(steps))
        monkeypatch.setattr(
            forget, "_remove", lambda *a, left=left: remove(*a) if next(left, None) is not None else 1 / 0
        )
        if steps < files:
            with pytest.raises(ZeroDivisionError):
                forget_users(spool.folder, {"gone"}, LATER)
    monkeypatch.setattr(forget, "_remove", remove)
    forget_users(spool.folder, {"gone"}, LATER)
    assert not any(name in path.read_bytes() for path in spool.folder.iterdir() for name in (b"gone", b"cut"))
    assert [record["decision_id"] for record in segments.read(spool.folder, "outcome")] == odd(30)


def test_a_decision_with_a_reservation_perhaps_open_stays_a_day(spool: Spool, tmp_path: Path) -> None:
    name, at = decision_id("gone", spool.identity, START.timestamp()), START.isoformat()
    put(spool, "decision", name, user_id="gone", reservation_id=name, event_time=at, expose=True, withdrawn=False)
    put(spool, "decision", "d1", user_id="gone", reservation_id=None, event_time=at)
    spool.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("incumbent", "*", "*", 100.0)])
    assert reserve(ledger, name, "incumbent", "spring", "search", 0.5)
    for hours, expected in ((1, SpoolWithout(1, 1, held=False)), (25, SpoolWithout(1, 0, held=False))):
        assert forget_users(spool.folder, {"gone"}, START + timedelta(hours=hours)) == expected
        again = Spool(spool.folder)
        reconcile(ledger, again)
        again.close()
        assert ledger.open_reservations() == ([name] if expected.left else []), "released once its decision is removed"
    ledger.close()


def test_a_router_keeps_its_spool_and_its_uploads_omit_the_user(spool: Spool, tmp_path: Path) -> None:
    fill(spool)
    Forgotten.add(tmp_path, ["gone"], LATER)
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(0, 15, held=True)
    assert len(list(spool.read("decision"))) == 30
    lake = Lake.open(tmp_path / "lake")
    upload(spool, lake)
    assert found(lake) == found(lake, "window") == odd(30)


def test_a_user_forgotten_during_an_upload_is_not_in_the_lake(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload may write its files after the removal has searched the lake."""
    fill(spool)
    known = Lake.forgotten
    for readings in count():
        folder = tmp_path / f"after-{readings}"
        folder.mkdir()
        left = iter([False] * readings + [True])

        def forgotten(self: Lake, folder: Path = folder, left: Iterator[bool] = left) -> Forgotten:
            noted = known(self)
            if next(left, False):
                forget_in(folder, frozenset({"gone"}), LATER)
            return noted

        with monkeypatch.context() as patched:
            patched.setattr(Lake, "forgotten", forgotten)
            (spool.folder / SHIPPED).unlink(missing_ok=True)
            upload(spool, Lake.open(folder / "lake"))
        if next(left, False):
            break  # an upload reads the note less often
        assert found(Lake.open(folder / "lake")) == odd(30)
    assert readings >= 2
