"""Words for verdicts, metrics and problems on pages and in reasons."""

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
"""States of a guardrail, the worst first."""
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
"""Why decisions do not count in a verdict."""


def confidence(verdict: Mapping[str, Any]) -> str:
    """Confidence of the always-valid intervals of a verdict, in words."""
    return f"{100 * verdict['confidence']:.4g} %"


def account(arm: str, arms: Collection[str]) -> str:
    """The owner of an account in words; `arms` are the arms of all accounts, with or without users outside."""
    if arm == ALL_ARMS:
        return "all arms and users outside" if OUTSIDE in arms else "all arms"
    return "users outside" if arm == OUTSIDE else arm


def moved(users: int) -> str:
    """States that users are in several arms; empty if there are none."""
    if not users:
        return ""
    who, are = ("user", "is") if users == 1 else ("users", "are")
    return (
        f"{users:,} {who} moved from one arm to another between stages, and {are} in both: the arms are compared "
        "within each stage"
    )


def heavy(arm: str, share: float) -> str:
    """States that one user has this share of an arm's decisions, without naming the user."""
    return f"one user makes {share:.0%} of the decisions of {arm} and counts as {HEAVIEST:g} typical users"


def left_out(reason: str) -> str:
    """The reason why decisions do not count, in words."""
    return LEFT_OUT.get(reason, reason.replace("_", " "))


def metric(name: str) -> str:
    """The name of a model's metric, in words."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def named_in(metric_name: str, units: Mapping[str, str]) -> str:
    """`named`, with the unit looked up."""
    return named(metric_name, units[metric_name]) if metric_name in units else metric_name.replace("_", " ")


def of_arms(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics that a verdict reports for each arm, with their names and units."""
    arms = list(verdict["arms"].values())
    return [(name, named(name, verdict["units"][name])) for name in (arms[0]["metrics"] if arms else ())]


def named(metric_name: str, unit: str) -> str:
    """A metric and its unit: `clicks per decision`; `cost per decision, EUR`; `gain per cost, EUR per EUR`."""
    what, _, per = metric_name.partition("_per_")
    above, _, below = unit.partition(" per ")
    if above.startswith(what):
        return unit
    if metric_name.endswith(unit):
        return metric_name.replace("_", " ")
    return f"{what} per {per}, {above if per == below else unit}"
