"""A user leaves a spool at rest; one that a router holds stays as it is, and nothing of the user comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import duckdb
import pytest
from serving.decision_log.export import export_parquet, export_segments
from serving.decision_log.parquet_sink import ParquetSink

from features.forget.places import forget as forget_in
from mtorl.log.forgotten import Forgotten
from mtorl.log.records import unit_hash
from serving.decision_log import Spool, forget, position, segments
from serving.decision_log.forget import SpoolWithout, forget_in_spools, forget_users
from serving.ledger import Account, SqliteLedger
from serving.router.flow.budgets import reconcile
from tests.serving.shipping import put, ship_all

START = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
LATER = START + timedelta(days=2)


def fill(spool: Spool, first: int = 0, number: int = 30) -> None:
    """Decisions of two users in turn, each with its cost; some segments."""
    for i in range(first, first + number):
        user, at = ("gone", "stays")[i % 2], (START + timedelta(minutes=i)).isoformat()
        put(spool, "decision", f"d{i}", user_id=user, unit_hash=unit_hash(user), reservation_id=f"d{i}", event_time=at)
        put(spool, "outcome", f"e{i}", decision_id=f"d{i}", kind="cost", event_time=at)
        spool.submit("shadow", {"shadow_id": f"d{i}-arm", "decision_id": f"d{i}", "event_time": at}).result(60)


def ship(spool: Spool, out: Path) -> None:
    sink = ParquetSink(out, spool.identity)
    sink.linger = 0.0
    ship_all(spool, sink)


def ids(files: Path, column: str = "decision_id") -> list[str]:
    query = f"SELECT {column} FROM read_parquet('{files}', union_by_name = true) ORDER BY ALL"
    return sorted((row[0] for row in duckdb.execute(query).fetchall()), key=lambda name: int(name[1:]))


def odd(number: int) -> list[str]:
    return [f"d{i}" for i in range(number) if i % 2]


def test_at_rest_the_users_records_go_and_the_others_stay(spool: Spool) -> None:
    fill(spool)
    spool.close()
    before = {kind: list(segments.read(spool.folder, kind)) for kind in ("decision", "outcome", "shadow")}
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(45, 0, held=False)
    for kind, records in before.items():
        assert list(segments.read(spool.folder, kind)) == [r for r in records if int(r["decision_id"][1:]) % 2]
    assert not any(b"gone" in path.read_bytes() for path in spool.folder.iterdir())
    files = {path: path.read_bytes() for path in spool.folder.iterdir()}
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(0, 0, held=False)
    assert {path: path.read_bytes() for path in spool.folder.iterdir()} == files


def test_the_next_router_goes_on_and_ships_everything_once(spool: Spool, tmp_path: Path) -> None:
    fill(spool)
    out = tmp_path / "log"
    ship(spool, out)
    spool.close()
    Forgotten.add(tmp_path, ["gone"], LATER)
    assert list(forget_in_spools(tmp_path, {"gone"}, LATER)) == ["spool"]
    with_more = Spool(spool.folder, segment_bytes=20_000)
    fill(with_more, 30, 10)
    ship(with_more, out)
    with_more.close()
    assert [name for name in ids(out / "decisions/*/*/*.parquet") if int(name[1:]) % 2] == odd(40)
    assert "d38" not in ids(out / "decisions/*/*/*.parquet"), "shipped after it was forgotten"
    assert with_more.torn == 0


@pytest.mark.parametrize(
    ("write", "files"),
    [
        (lambda spool, data: export_segments(spool.folder, data / "segments"), "segments/*/*/decisions.parquet"),
        (lambda spool, data: export_parquet(spool.folder, data / "flat"), "flat/decisions.parquet"),
        (lambda spool, data: ship(spool, data / "log"), "log/decisions/*/*/*.parquet"),
    ],
)
def test_who_is_forgotten_while_files_are_written_is_not_in_them(
    write: Callable[[Spool, Path], None], files: str, spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgets notes it first and then looks for files, perhaps before these are there."""
    fill(spool)
    known = Forgotten.of
    for readings in count():
        data = tmp_path / f"after-{readings}"
        data.mkdir()
        left = iter([False] * readings + [True])

        def of(folder: Path, data: Path = data, left: Iterator[bool] = left) -> Forgotten:
            found = known(folder)
            if next(left, False):
                forget_in(data, frozenset({"gone"}), LATER)
            return found

        monkeypatch.setattr(Forgotten, "of", of)
        (spool.folder / position.FILE).unlink(missing_ok=True)
        write(spool, data)
        if next(left, False):
            break  # it does not read that often
        assert ids(data / files) == odd(30)


def test_what_is_interrupted_between_two_files_is_made_good(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spool)
    spool.set_aside("decision", next(iter(segments.segments(spool.folder, "decision"))).read_bytes())
    (spool.folder / "decision-00000001.torn").write_bytes(b'{"decision_id": "d99", "user_id":"gone", "ca\n')
    spool.close()
    with max(segments.segments(spool.folder, "outcome")).open("ab") as file:
        file.write(b'{"event_id": "cut", "decision_id": "d0"}')  # before its newline
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


def test_a_decision_whose_money_may_be_open_stays_a_day(spool: Spool, tmp_path: Path) -> None:
    name, at = f"{spool.identity}-0", START.isoformat()
    put(spool, "decision", name, user_id="gone", reservation_id=name, event_time=at, expose=True, withdrawn=False)
    put(spool, "decision", "d1", user_id="gone", reservation_id=None, event_time=at)
    spool.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("incumbent", "*", "*", 100.0)])
    assert ledger.reserve(name, "incumbent", "spring", "search", 0.5)
    for hours, expected in ((1, SpoolWithout(1, 1, held=False)), (25, SpoolWithout(1, 0, held=False))):
        assert forget_users(spool.folder, {"gone"}, START + timedelta(hours=hours)) == expected
        again = Spool(spool.folder)
        reconcile(ledger, again)
        again.close()
        assert ledger.open_reservations() == ([name] if expected.left else []), "given back once its decision is gone"
    ledger.close()


def test_a_router_keeps_its_spool_and_what_it_exports_and_ships_is_without_the_user(
    spool: Spool, tmp_path: Path
) -> None:
    fill(spool)
    data = tmp_path / "volume"
    data.mkdir()
    Forgotten.add(data, ["gone"], LATER)
    assert forget_users(spool.folder, {"gone"}, LATER) == SpoolWithout(0, 15, held=True)
    assert len(list(spool.read("decision"))) == 30
    export_segments(spool.folder, data / "decision_log" / "router-0")
    export_parquet(spool.folder, data / "flat")
    ship(spool, data / "log")
    for place in (
        "decision_log/router-0/*/*/decisions.parquet",
        "flat/decisions.parquet",
        "log/decisions/*/*/*.parquet",
    ):
        assert ids(data / place) == odd(30)
    export_parquet(data / "log", tmp_path / "elsewhere")
    assert ids(tmp_path / "elsewhere" / "decisions.parquet") == odd(30)
    export_parquet(spool.folder, tmp_path / "elsewhere")
    assert len(ids(tmp_path / "elsewhere" / "decisions.parquet")) == 30, "nobody was forgotten there"
