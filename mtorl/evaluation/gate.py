"""Decides by off-policy values whether a challenger may replace the incumbent.

    report = gate_report(evaluate_offline(...), min_lift=0.0, margin=0.02)       # of the two policies of an evaluation
    decision, reason = gate(value_difference(...), min_lift=0.0, margin=0.02)    # of their values alone

| the incumbent | estimate and 95 % interval of challenger - incumbent | decision |
|---|---|---|
| any | the log can't value one of them | reject |
| any | the lower bound is above `min_lift` | promote |
| our own last model | positive, the lower bound above -`margin` of the incumbent's value | promote |
| our own last model | positive, the lower bound lower than that | experiment |
| any | all else | reject |

An external incumbent has to be beaten. Our own next model was trained on more data, and has to be no worse than the
last one: of 40 next models that were better, the proof that an external incumbent asks for let 5 pass. What a log of
this size can't settle, an experiment with users can (`benchmarks/generations.py` measures both errors).

A log says nothing about an exposure that could not have happened: one on a channel that was never drawn there, or that
the logging policy never wanted to show. The mean weight does not tell. So the gate bounds the share of such exposures.
"""

import math
from collections.abc import Mapping
from typing import Any

from mtorl.artifact.lineage import Figure, GateDecision, GateReport
from mtorl.evaluation import messages
from mtorl.evaluation.importance_weights import rejection_reason
from mtorl.evaluation.value_difference import ARMS
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import Message

MAX_IMPOSSIBLE = 0.05  # largest share of an arm's exposures that the log could not have made

MIN_USERS = 20  # fewer users say too little of how much users differ, however many decisions they have

MIN_ESS, MIN_ESS_ROWS = 0.01, 100
"""Smallest effective sample size of either arm: as a share of rows, and as a number of rows."""

MARGIN = 0.02
"""By which share of our own last model's value the next one's lower bound may be below it."""


def gate_report(evaluation: Mapping[str, Any], min_lift: float = 0.0, margin: float = MARGIN) -> GateReport:
    """The decision on the challenger of `evaluate_offline`, with the rule and the values that it rests on.

    Raises InputError: the margin is no share, such as 2 for 2 %, which would promote nearly anything.
    """
    if not 0.0 <= margin < 1.0:
        raise InputError(f"margin: expected a share from 0 to below 1, such as {MARGIN:g} for 2 %, got {margin:g}")
    value, applied = evaluation["value"], margin if evaluation["incumbent_is"] == "own_model" else None
    decision, reason = gate(value, min_lift, applied)
    low, high = value["difference_ci"]
    lift = Figure(value=value["difference"], low=low, high=high) if _is_known(value) else None
    rule = {"min_lift": min_lift, "margin": applied, "valued_on": evaluation["valued_on"]}
    return GateReport(decision=decision, reason=reason, code=reason.code, values=reason.values, lift=lift, **rule)


def gate(
    estimate: Mapping[str, Any], min_lift: float = 0.0, margin: float | None = None
) -> tuple[GateDecision, Message]:
    """The decision by the table above, and the reason.

    Args:
        estimate: Result of `value_difference`, or its JSON.
        min_lift: Least improvement over the incumbent, in units of gain per opportunity.
        margin: Share of the incumbent's value, if the incumbent is our own last model. None: it is external.
    """
    if reason := refusal(estimate):
        return "reject", reason
    low, high = estimate["difference_ci"]
    bounds = f"challenger - incumbent is {estimate['difference']:+.4g}, 95 % interval [{low:+.4g}, {high:+.4g}]"
    if low > min_lift:
        return "promote", messages.PROVEN(difference=bounds, least=min_lift)
    if margin is None:
        return "reject", messages.NOT_PROVEN(difference=bounds, least=min_lift)
    if not estimate["difference"] > 0:
        return "reject", messages.NOT_BETTER(difference=bounds)
    least = -margin * max(estimate["incumbent"], 0.0)
    if low > least:
        return "promote", messages.NOT_WORSE(difference=bounds, least=least, margin=margin)
    return "experiment", messages.UNSETTLED(difference=bounds, least=least)


def refusal(estimate: Mapping[str, Any]) -> Message | None:
    """Reason not to use an estimate; None if there is none."""
    if estimate["users"] < MIN_USERS:
        return messages.TEST_USERS(users=estimate["users"], needed=MIN_USERS)
    for arm in ARMS:
        if (impossible := estimate["impossible"][arm]) > MAX_IMPOSSIBLE:
            return messages.IMPOSSIBLE(arm=arm, share=impossible, most=MAX_IMPOSSIBLE)
        weights = {name: estimate[name][arm] for name in ("ess", "mean_weight", "mean_weight_ci")}
        least = max(MIN_ESS * estimate["rows"], MIN_ESS_ROWS)
        if reason := rejection_reason({**weights, "rows": estimate["rows"]}, arm, least):
            return reason
    if not _is_known(estimate):
        return messages.RESAMPLES()
    return None


def _is_known(estimate: Mapping[str, Any]) -> bool:
    return all(map(math.isfinite, (estimate["incumbent"], estimate["difference"], *estimate["difference_ci"])))
