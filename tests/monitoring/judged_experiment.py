"""The experiment used by the tests of verdicts."""

from typing import Any

from tests.experiments import experiment

CONTENT: dict[str, Any] = experiment(
    "http://x",
    metrics={
        "primary": "click_per_decision",
        "secondary": ["exposure_ratio"],
        "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": 0.5}],
        "outcome_hours": None,
    },
)
