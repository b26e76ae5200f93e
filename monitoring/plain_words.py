"""Translates verdicts, metrics and problems into the words of pages and messages."""

from collections.abc import Collection, Mapping
from typing import Any

from mtorl.experiment.arm import ALL_ARMS, OUTSIDE
from mtorl.experiment.inference.heavy_users import HEAVIEST

VERDICTS = {
    "ship": ("Ship the challenger", "good"),
    "stop": ("Keep the incumbent", "alarm"),
    "futile": ("Keep the incumbent: the wanted effect is ruled out", "alarm"),
    "inconclusive": ("Not decided yet", "open"),
    "srm": ("No verdict: users are not split as configured", "alarm"),
    "guardrail": ("Keep the incumbent: a guardrail is breached", "alarm"),
}
GATES = {
    "promote": ("Passed", "The gate let the challenger into the experiment", "good"),
    "experiment": ("Open", "The gate leaves the decision to an experiment", "open"),
    "reject": ("Refused", "The gate refused the challenger", "alarm"),
}
GUARDRAILS = {"breached": ("Breached", "alarm"), "open": ("Not known yet", "open"), "held": ("Held", "good")}
"""States of a guardrail, the worst state first, with their text and their style on the page."""
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
TRAFFIC = {"clean": "live traffic", "shifted": "shifted traffic"}
ALARMS = {"drift": "moved", "data_quality": "broken", "harm": "harm"}
LEFT_OUT = {
    "other_experiment": "of another experiment: another name, layer or salt",
    "override": "since the experiment file named the user's arm",
    "outside": "of users outside the experiment's part of its layer",
    "not_randomised": "at stage shadow, or with the kill switch on: all users got the incumbent",
    "other_model": "before the arms had their newest models",
    "other_weights": "while the arms had other shares of the users",
    "repeated": "repeated requests: one decision of each counts",
    "immature": "too new: their outcomes may still arrive",
    "unfinished_period": "of a budget's day or hour that is not over",
    "changed_period": "of a budget's day or hour in which stage or shares were changed",
    "switched_off": "of a budget's day or hour in which the kill switch was used",
}
"""Reasons why decisions do not count in a verdict, in words."""


def confidence(verdict: Mapping[str, Any]) -> str:
    """Format the confidence level of a verdict's always-valid intervals, such as "95 %"."""
    return f"{100 * verdict['confidence']:.4g} %"


def account(arm: str, arms: Collection[str]) -> str:
    """Name the arm that owns a budget account, such as "all arms".

    Args:
        arm: The arm; "*" for all arms together.
    """
    if arm == ALL_ARMS:
        return "all arms and users outside" if OUTSIDE in arms else "all arms"
    return "users outside" if arm == OUTSIDE else arm


def moved(users: int) -> str:
    """Write the sentence that some users moved between arms; "" if `users` is 0."""
    if not users:
        return ""
    who, are = ("user", "is") if users == 1 else ("users", "are")
    return (
        f"{users:,} {who} moved from one arm to another between stages, and {are} in both: the arms are compared "
        "within each stage"
    )


def heavy(arm: str, share: float) -> str:
    """Write the sentence that one user made the given share of an arm's decisions."""
    return f"one user makes {share:.0%} of the decisions of {arm} and counts as {HEAVIEST:g} typical users"


def left_out(reason: str) -> str:
    """Explain why decisions do not count in a verdict; `reason` is a key of `LEFT_OUT`."""
    return LEFT_OUT.get(reason, reason.replace("_", " "))


def metric(name: str) -> str:
    """Return the display name of a model's metric, such as "Action AUC"."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def named_in(metric_name: str, units: Mapping[str, str]) -> str:
    """Format a metric's name with its unit, such as `cost per decision, EUR`."""
    return named(metric_name, units[metric_name]) if metric_name in units else metric_name.replace("_", " ")


def of_arms(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the names of the metrics that a verdict reports by arm, without and with units."""
    arms = list(verdict["arms"].values())
    return [(name, named(name, verdict["units"][name])) for name in (arms[0]["metrics"] if arms else ())]


def named(metric_name: str, unit: str) -> str:
    """Format a metric with its unit, such as `clicks per decision` or `cost per decision, EUR`."""
    what, _, per = metric_name.partition("_per_")
    above, _, below = unit.partition(" per ")
    if above.startswith(what):
        return unit
    if metric_name.endswith(unit):
        return metric_name.replace("_", " ")
    return f"{what} per {per}, {above if per == below else unit}"
