"""Example records of several hours, some of them late, duplicated, withdrawn or orphaned."""

from typing import Any

from tests.features.collect.decision_logs import decision, outcome

DECISIONS = [
    decision("a", 0),
    decision("b", 59),
    decision("b", 59.01, withdrawn=True, expose=False, fallback_reason="log"),
    decision("c", 61, user_id="u2"),
    decision("d", 185, expose=False),
    decision("e", 59.999),
    decision("e", 60.001, withdrawn=True, expose=False, fallback_reason="log"),  # in the next hour
]
OUTCOMES = [
    outcome("a-cost", "a"),
    outcome("a-click", "a", "click", 1.0, minutes=4000),  # days later
    outcome("c-cost", "c", minutes=62),
    outcome("c-cost", "c", minutes=62),  # sent twice
    outcome("x-cost", "nobody", minutes=62),
    outcome("e-cost", "e", minutes=61),
]
Records = list[dict[str, Any]]
