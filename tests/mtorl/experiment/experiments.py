"""An experiment with a ramp, for tests of what happens to it."""

from __future__ import annotations

from typing import Any

from mtorl.experiment.experiment import Experiment

RAMP: dict[str, Any] = {
    "stages": [
        {"stage": "shadow", "hours": 1, "users": 10},
        {"stage": "5%", "hours": 2, "users": 20},
        {"stage": "50%", "hours": 3, "users": 30},
    ]
}
FILE: dict[str, Any] = {
    "name": "mtorl-vs-rules",
    "enabled": True,
    "salt": "a",
    "unit": "user_id",
    "layer": "ads",
    "arms": [
        {"name": "incumbent", "weight": 0.5, "policy": "baseline"},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://127.0.0.1:8085", "model_digest": "29f665"},
    ],
    "default_channel": "search",
    "budgets": [{"campaign": "*", "channel": "*", "amount": 1000}],
    "metrics": {"primary": "gain_per_decision"},
    "alpha": 0.05,
    "min_runtime_hours": 0,
    "owner": "ads-platform",
    "ramp": RAMP,
}


def made(**changes: Any) -> Experiment:
    """That experiment, with other fields."""
    return Experiment.from_dict({**FILE, **changes})
