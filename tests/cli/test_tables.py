"""What `mtorl run` prints at its end."""

from __future__ import annotations

from cli.tables import _alarms


def test_traffic_that_was_not_judged_is_no_traffic_without_alarms() -> None:
    shifted = {"alarms": [1, 2], "retrain": "hour", "not_judged": None}
    clean = {"alarms": [], "retrain": None, "not_judged": None}
    said = "alarms: 0 on live traffic, 2 on shifted traffic; it asks for a new training"
    assert _alarms({"clean": clean, "shifted": shifted}) == said
    unknown = clean | {"not_judged": "3 rows"}
    assert _alarms({"clean": unknown, "shifted": shifted}) == f"{said}; live traffic was not judged: 3 rows"
