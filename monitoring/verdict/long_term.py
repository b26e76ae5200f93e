"""Long-run effect of a promotion: the promoted policy, less the policy that the holdout keeps.

    long_term_effect(log, experiment, gain)      # the experiment as it is in force; None: nothing was promoted

It is the verdict on another experiment, of the same users, that began with the promotion: the promoted policy is its
incumbent, and the holdout is its challenger. Users outside the experiment's part of its layer are in neither. Nothing
is adjusted: the experiment has shaped what users did before the promotion.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict

from monitoring.decision_log import DecisionLog, Period
from monitoring.verdict.verdict import verdict_from_log
from mtorl.experiment.arm import HOLDOUT, INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import Metrics
from mtorl.log.gain import Gain

_HELD_OUT = "held out"  # what the holdout is called as an arm: its own name is reserved
_STAGE: Literal["50%"] = "50%"  # at which an arm has its whole weight


class LongTerm(TypedDict):
    """The promoted policy less the holdout's; plain values, ready for JSON."""

    since: str  # when it was promoted
    holdout: float  # share of the users who are held out
    effect: float | None  # of the primary metric; None: nothing counts yet
    effect_ci: list[float] | None  # always valid; None: too few users
    relative_effect: float | None
    confidence: float
    metric: str  # the primary one
    unit: str  # of the effect
    users: dict[str, int]  # who count: of the promoted policy (`incumbent`), and held out (`holdout`)
    decisions: dict[str, int]
    srm_p: float
    left_out: dict[str, int]
    tone: Literal["good", "alarm", "open"]
    words: str


def long_term_effect(log: DecisionLog, experiment: Experiment, gain: Gain) -> LongTerm | None:
    """Compare the promoted policy with the previous one; None: nothing was promoted, or no user is held out.

    Decisions since the promotion count, until the end of the log's period.
    """
    if experiment.promotion is None:
        return None
    since = experiment.promotion.at.isoformat()
    compared = _as_an_experiment(experiment)
    since_then = replace(log, period=Period(since, log.period.until), read_as=_read_as(compared.shares()))
    found = verdict_from_log(since_then, compared, gain)
    effect = None if found["lift"] is None else -found["lift"]
    low, high = found["lift_ci"]
    ci = None if low is None or high is None else [-high, -low]
    metric, arms = found["metric"], {INCUMBENT: found["arms"][INCUMBENT], HOLDOUT: found["arms"][_HELD_OUT]}
    before, of = arms[HOLDOUT]["metrics"][metric], found["units"][metric]
    tone, words = _said(found, ci, of)
    return LongTerm(
        since=since,
        holdout=experiment.holdout,
        effect=effect,
        effect_ci=ci,
        relative_effect=effect / before if effect is not None and before else None,
        confidence=found["confidence"],
        metric=metric,
        unit=of,
        users={name: arm["users"] for name, arm in arms.items()},
        decisions={name: arm["decisions"] for name, arm in arms.items()},
        srm_p=found["srm_p"],
        left_out=found["left_out"],
        tone=tone,
        words=words,
    )


def _as_an_experiment(experiment: Experiment) -> Experiment:
    weights = {INCUMBENT: 1.0 - experiment.holdout, _HELD_OUT: experiment.holdout}
    metrics = experiment.metrics
    return experiment.replace(
        enabled=True,
        stage=_STAGE,
        arms=tuple(Arm(name=name, weight=weight, policy="baseline") for name, weight in weights.items()),
        metrics=Metrics(primary=metrics.primary, outcome_hours=metrics.outcome_hours),
        min_runtime_hours=0.0,
        holdout=0.0,
        promotion=None,
        covariates=None,
        minimum_effect=None,
    )


def _read_as(shares: Mapping[str, float]) -> str:
    """SQL: the records of `written_log`, in which held-out users are in an arm."""
    ours = f"stage = 'off' AND arm IN ('{INCUMBENT}', '{HOLDOUT}')"
    fields = {
        "arm": f"if(arm = '{HOLDOUT}', '{_HELD_OUT}', arm)",
        "stage": f"'{_STAGE}'",
        "assignment_probability": f"if(arm = '{HOLDOUT}', {shares[_HELD_OUT]!r}, {shares[INCUMBENT]!r})",
        "shares": f"'{json.dumps(shares)}'",
    }
    replaced = ", ".join(f"CASE WHEN {ours} THEN {value} ELSE {name} END AS {name}" for name, value in fields.items())
    return f"SELECT * REPLACE ({replaced}) FROM written_log"


def _said(found: Mapping[str, Any], ci: list[float] | None, of: str) -> tuple[Literal["good", "alarm", "open"], str]:
    """Tone and words; the challenger of `found` is the holdout."""
    token = found["verdict"]
    if token == "srm":
        return "alarm", found["reason"]
    if ci is None or not (token in ("stop", "ship") or ci[0] <= 0.0 <= ci[1]):
        return "open", found["reason"]
    interval = f"[{ci[0]:+.4g}, {ci[1]:+.4g}] {of}"
    if token == "stop":
        return "good", f"what was promoted is better than the previous incumbent: by {interval}, always valid"
    if token == "ship":
        return "alarm", (
            f"what was promoted is worse than the previous incumbent: by {interval}, always valid; a rollback "
            "gives that one back to everybody"
        )
    return "open", f"no difference from the previous incumbent is known yet: {interval}, always valid, holds zero"
