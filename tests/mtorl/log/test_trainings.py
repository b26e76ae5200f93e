"""Tests of the records of trainings, which reveal that a log has lost rows."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.trainings import FILE, LOST, LogFacts, Training, add, newest, read

DAYS = [f"2026-11-{day:02}" for day in range(1, 29)]
counts = st.lists(st.integers(0, 500), min_size=2, max_size=28)


def facts(rows: list[int], first: int = 0) -> LogFacts:
    days = dict(zip(DAYS[first:], rows, strict=False))
    return LogFacts(dataset="shop", channels=("search", "video"), days={day: n for day, n in days.items() if n})


@given(counts, st.lists(st.integers(0, 500), max_size=28), st.integers(0, 27))
def test_growth_and_removal_of_the_oldest_days_are_no_loss(rows: list[int], more: list[int], gone: int) -> None:
    grown = [n + (more[i] if i < len(more) else 0) for i, n in enumerate(rows)]
    assert facts(grown).lost_since(facts(rows)) == ""
    assert facts(grown[gone:], gone).lost_since(facts(rows)) == ""


@given(counts, st.integers(1, 27), st.floats(0.0, 1.0))
def test_missing_rows_of_a_later_day_are_lost(rows: list[int], at: int, share: float) -> None:
    # Missing rows at the start count as removed on purpose.
    rows[0] = max(rows[0], 1)
    at = min(at, len(rows) - 1)
    left = [int(n * share) if i == at else n for i, n in enumerate(rows)]
    lost, had = rows[at] - left[at], sum(rows[1:])
    said = facts(left).lost_since(facts(rows))
    assert (said != "") == (lost > LOST * had)
    if said:
        assert f"{lost:,} of {had:,}" in said and DAYS[at] in said


def test_logs_of_different_data_sets_are_not_compared() -> None:
    before = facts([100, 100])
    other = before.model_copy(update={"dataset": "another", "days": {"2026-11-01": 1}})
    assert other.lost_since(before) == ""
    assert before.model_copy(update={"channels": ("search", "video", "mail")}).new_channels(before) == ("mail",)


def test_a_run_is_recorded_once_and_invalid_lines_are_ignored(tmp_path: Path) -> None:
    at = datetime(2026, 11, 29, tzinfo=UTC)
    assert newest(tmp_path / "none") is None
    for run, decision in (("a", "reject"), ("b", "reject"), ("b", "promote"), ("", "reject"), ("", "reject")):
        at += timedelta(hours=1)
        add(tmp_path, Training(at=at, run=run, log=facts([1]), decision=decision, reason="a test"))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"at": "yesterday"}\n')
    kept = [("a", "reject"), ("b", "promote"), *[("", "reject")] * 2]
    assert [(one.run, one.decision) for one in read(tmp_path)] == kept
    found = newest(tmp_path)
    assert found is not None and found.at == at
