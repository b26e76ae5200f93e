from datetime import datetime

import pytest

from monitoring.decision_log import Period, PeriodError
from monitoring.messages import NOT_A_TIME
from tests.messages import raises


@pytest.mark.parametrize(
    ("bound", "read"),
    [
        ("", ""),
        ("2026-01-01", "2026-01-01T00:00:00+00:00"),
        *(
            (text, "2026-01-01T12:00:00+00:00")
            for text in ("20260101T120000Z", "2026-W01-4T13:00+01:00", "2026-01-01T12Z", "2026-01-01 12:00")
        ),
    ],
)
def test_a_bound_is_any_form_of_iso_8601(bound: str, read: str) -> None:
    at = datetime.fromisoformat(read) if read else None
    assert Period.of(since=bound) == Period(since=at) and Period.of(until=bound) == Period(until=at)


@pytest.mark.parametrize("bound", ["since", "until"])
def test_an_invalid_time_is_named(bound: str) -> None:
    with raises(PeriodError, NOT_A_TIME, name=bound, text="[[ScheduledTime]]"):
        Period.of(**{bound: "[[ScheduledTime]]"})
