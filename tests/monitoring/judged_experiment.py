"""The experiment that the tests of verdicts judge."""

from __future__ import annotations

from typing import Any

CONTENT: dict[str, Any] = {
    "name": "test",
    "enabled": True,
    "salt": "s",
    "unit": "user_id",
    "layer": "l",
    "stage": "50%",
    "arms": [{"name": name, "weight": 0.5, "endpoint": "http://x"} for name in ("incumbent", "challenger")],
    "default_channel": "search",
    "budgets": [{"campaign": "*", "channel": "*", "amount": 100}],
    "metrics": {
        "primary": "click_per_decision",
        "secondary": ["exposure_ratio"],
        "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": 0.5}],
    },
    "alpha": 0.05,
    "min_runtime_hours": 0,
    "owner": "o",
}
