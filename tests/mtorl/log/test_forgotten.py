"""Tests that a list of forgotten users hides their records in its folder and below."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.forgotten import FILE, Forgotten, ForgottenError
from mtorl.log.messages import NOT_FORGOTTEN
from mtorl.log.records import unit_hash
from tests.messages import raises

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_list_applies_to_its_folder_and_all_below(tmp_path: Path) -> None:
    below = tmp_path / "volume" / "collected"
    below.mkdir(parents=True)
    assert not Forgotten.of(below)
    Forgotten.add(tmp_path / "volume", ["a"], NOW)
    Forgotten.add(below, ["b"], NOW, before=NOW - HOUR)
    assert set(Forgotten.of(below).users) == {unit_hash("a"), unit_hash("b")}
    assert set(Forgotten.of(tmp_path / "volume").users) == {unit_hash("a")}
    assert Forgotten.of(below).before == NOW - HOUR and not Forgotten.of(tmp_path)
    assert Forgotten.of(tmp_path / "volume" / "not there yet")


def test_the_later_of_two_times_counts(tmp_path: Path) -> None:
    for time in (NOW, NOW + HOUR, NOW - HOUR):
        Forgotten.add(tmp_path, ["a"], time, before=time)
    forgotten = Forgotten.of(tmp_path)
    assert forgotten == Forgotten({unit_hash("a"): NOW + HOUR}, NOW + HOUR)
    written = (tmp_path / FILE).stat().st_mtime_ns
    Forgotten.add(tmp_path, ["a"], NOW)
    assert (tmp_path / FILE).stat().st_mtime_ns == written


@given(
    users=st.dictionaries(st.sampled_from("abc"), st.integers(-2, 2)),
    before=st.none() | st.integers(-2, 2),
    records=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3))),
)
def test_sql_and_python_agree(users: dict[str, int], before: int | None, records: list[tuple[str, int]]) -> None:
    forgotten = Forgotten(
        {unit_hash(user): NOW + hours * HOUR for user, hours in users.items()},
        None if before is None else NOW + before * HOUR,
    )
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'; CREATE TABLE records (n INT, unit_hash VARCHAR, event_time TIMESTAMPTZ)")
        for number, (user, hours) in enumerate(records):
            db.execute("INSERT INTO records VALUES (?, ?, ?)", [number, unit_hash(user), NOW + hours * HOUR])
        db.execute("INSERT INTO records VALUES (-1, NULL, NULL)")
        kept = db.execute(f"SELECT n FROM records WHERE NOT {forgotten.sql('decision')} ORDER BY n").fetchall()
        old = db.execute(f"SELECT count(*) FROM records WHERE {forgotten.sql('outcome')}").fetchall()
    expected = [n for n, (user, hours) in enumerate(records) if not forgotten.has(user, NOW + hours * HOUR)]
    assert [n for (n,) in kept] == [-1, *expected]
    assert old == [(sum(before is not None and hours < before for _, hours in records),)]


@pytest.mark.parametrize("text", ["", "[]", '{"users": {"a": 1}, "before": null}', '{"users": {"\'": "2026-01-01"}}'])
def test_an_invalid_list_is_refused_and_not_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with raises(ForgottenError, NOT_FORGOTTEN, file=str(tmp_path / FILE)):
        Forgotten.of(tmp_path)
