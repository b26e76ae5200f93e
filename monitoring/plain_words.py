"""The names of verdicts, metrics and problems as people read them."""

from __future__ import annotations

from typing import Any

VERDICTS = {
    "ship": ("Ship the challenger", "good"),
    "stop": ("Keep the incumbent", "alarm"),
    "inconclusive": ("Not decided yet", "open"),
    "srm": ("No verdict: the arms are not filled as configured", "alarm"),
    "guardrail": ("Keep the incumbent: a guardrail is breached", "alarm"),
}
GATES = {
    "promote": ("The gate let the challenger into the experiment", "good"),
    "reject": ("The gate refused the challenger", "alarm"),
}
METRICS = {
    "action_accuracy": "Action accuracy",
    "action_auc": "Action AUC",
    "action_f1": "Action F1",
    "action_logloss": "Action log loss",
    "action_ece": "Action calibration error",
    "reward_auc": "Reward AUC",
    "reward_logloss": "Reward log loss",
    "reward_ece": "Reward calibration error",
}


def metric(name: str) -> str:
    """A metric's name in words."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def per_decision(gain: Any) -> str:
    """Unit of the primary metric."""
    words = {"click": "clicks", "conversion": "conversions", "None": "gain"}
    return f"{words.get(str(gain), str(gain))} per decision"
