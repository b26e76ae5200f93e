"""A period as a pipeline names it: by its bounds, or by its length up to now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring.decision_log import Period
from monitoring.period import PeriodError, period_of, verdict_of_period

NOW = datetime(2026, 3, 1, 3, 0, 17, 4711, UTC)


def test_the_last_hours_end_with_the_last_full_minute() -> None:
    assert period_of("", "", 24, NOW) == Period("2026-02-28T03:00:00+00:00", "2026-03-01T03:00:00+00:00")


def test_runs_that_start_a_little_late_leave_no_gap_and_no_overlap() -> None:
    today, tomorrow = (period_of("", "", 24, NOW + timedelta(days=days, seconds=20 * days)) for days in (0, 1))
    assert today.until == tomorrow.since


def test_bounds_come_before_hours() -> None:
    assert period_of("2026-01-01", "", 24, NOW) == Period("2026-01-01T00:00:00+00:00", "")
    assert period_of("", "2026-01-01T00:00:00Z", 24, NOW) == Period("", "2026-01-01T00:00:00+00:00")
    assert period_of("", "", 0, NOW) == Period()


@pytest.mark.parametrize("bound", ["20260101T120000Z", "2026-W01-4T13:00+01:00", "2026-01-01T12Z", "2026-01-01 12:00"])
def test_a_bound_may_be_written_in_any_form_of_iso_8601(bound: str) -> None:
    assert period_of(bound, "", 0) == Period("2026-01-01T12:00:00+00:00")


@pytest.mark.parametrize(
    ("since", "until", "hours", "words"),
    [
        ("[[ScheduledTime]]", "", 24, "since: .* leave since and until empty and set hours"),
        ("", "tomorrow", 24, "until: 'tomorrow' is not an ISO time"),
        ("", "", -1, "hours: must not be negative, got -1"),
    ],
)
def test_what_is_no_period_is_named(since: str, until: str, hours: int, words: str) -> None:
    with pytest.raises(PeriodError, match=words):
        period_of(since, until, hours, NOW)


def test_without_a_decision_log_the_error_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(PeriodError, match=r"no decisions\.parquet; the router's pod exports"):
        verdict_of_period(str(tmp_path), "none.yaml", Period(), "click", "", 0.0)
