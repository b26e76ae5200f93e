"""An experiment with a ramp, for tests of what happens to it."""

from __future__ import annotations

from typing import Any

from mtorl.experiment.experiment import Experiment
from tests.experiments import experiment

RAMP: dict[str, Any] = {
    "stages": [
        {"stage": "shadow", "hours": 1, "users": 10},
        {"stage": "5%", "hours": 2, "users": 20},
        {"stage": "50%", "hours": 3, "users": 30},
    ]
}
FILE: dict[str, Any] = experiment(
    "http://127.0.0.1:8085",
    name="mtorl-vs-rules",
    salt="a",
    layer="ads",
    arms=[
        {"name": "incumbent", "weight": 0.5, "policy": "baseline"},
        {"name": "challenger", "weight": 0.5, "model_digest": "29f665"},
    ],
    budgets=[{"campaign": "*", "channel": "*", "amount": 1000}],
    metrics={"primary": "gain_per_decision"},
    ramp=RAMP,
)
del FILE["stage"]


def made(**changes: Any) -> Experiment:
    """That experiment, with other fields."""
    return Experiment.from_dict({**FILE, **changes})
