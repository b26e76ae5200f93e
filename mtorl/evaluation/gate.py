"""Decides from off-policy values whether a challenger may replace the incumbent.

    report = gate_report(evaluate_offline(...), min_lift=0.0, margin=0.02)       # from a full evaluation
    decision, reason = gate(value_difference(...), min_lift=0.0, margin=0.02)    # from the values only

| incumbent | estimate and 95 % interval of challenger - incumbent | decision |
|---|---|---|
| any | not usable: the log can't value a policy or contradicts its probabilities, or training lost a channel | reject |
| any | lower bound above `min_lift` | promote |
| our own last model | positive estimate, lower bound above -`margin` times the incumbent's value | promote |
| our own last model | positive estimate, lower bound at or below this limit | experiment |
| any | all other cases | reject |

If the incumbent is external, the challenger must be proven better. If the incumbent is our own last model, the
challenger only has to be proven not worse, because a log is rarely large enough to prove that a model is better than
the previous one. If the log is too small for a decision, an experiment with users can decide.
`benchmarks/generations.py` measures how often the gate promotes a worse model, and how often it rejects a better one.

A log has no information about an exposure that the logging policy never makes, because it never draws or never exposes
the channel in that state. The mean weight does not reveal such exposures. So the gate rejects a policy if they are more
than a small share of its exposures.
"""

import math
from collections.abc import Mapping
from typing import Any

from mtorl.artifact.lineage import Figure, GateDecision, GateReport
from mtorl.evaluation import messages
from mtorl.evaluation.importance_weights import rejection_reason
from mtorl.evaluation.value_difference import ARMS
from mtorl.log.opportunities import ENOUGH
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import Message

# Largest share of an arm's exposures that the logging policy may be unable to make.
MAX_IMPOSSIBLE = 0.05

# With fewer users, the gate can't measure how much users differ.
MIN_USERS = 20

MIN_ESS, MIN_ESS_ROWS = 0.01, 100
"""Smallest effective sample size with which the gate accepts an estimate, for each of the two models: as a fraction of
the rows, and as a number of rows."""

MARGIN = 0.02
"""Accepted loss, if the incumbent is our own last model: the lower bound of the lift may be below 0 by this fraction of
the incumbent's value."""


def gate_report(evaluation: Mapping[str, Any], min_lift: float = 0.0, margin: float = MARGIN) -> GateReport:
    """Decide whether to promote the challenger of an offline evaluation, and report the rule that decided.

    Args:
        min_lift: Least improvement over the incumbent, in gain per opportunity.
        margin: Accepted loss against our own last model, as a fraction of its value.

    Raises:
        InputError: The margin is not in [0, 1).
    """
    if not 0.0 <= margin < 1.0:
        raise InputError(f"margin: expected a share from 0 to below 1, such as {MARGIN:g} for 2 %, got {margin:g}")
    value, applied = evaluation["value"], margin if evaluation["incumbent_is"] == "own_model" else None
    decision, reason = gate(value, min_lift, applied)
    own_decisions = evaluation.get("own_decisions", 0)
    if reason.code == messages.WRONG_PROPENSITIES.code and 0 < own_decisions < ENOUGH:
        reason = messages.FEW_DECISIONS(count=own_decisions, needed=ENOUGH)
    if lost := evaluation.get("lost_channel"):
        decision, reason = "reject", messages.LOST_CHANNEL(**lost)
    if wrong := evaluation.get("overexposed_channel"):
        decision, reason = "reject", messages.OVEREXPOSED(**wrong)
    low, high = value["difference_ci"]
    lift = Figure(value=value["difference"], low=low, high=high) if _is_known(value) else None
    rule = {"min_lift": min_lift, "margin": applied, "valued_on": evaluation["valued_on"]}
    return GateReport(decision=decision, reason=reason, code=reason.code, values=reason.values, lift=lift, **rule)


def gate(
    estimate: Mapping[str, Any], min_lift: float = 0.0, margin: float | None = None
) -> tuple[GateDecision, Message]:
    """Return whether the challenger is promoted, rejected or tested in an experiment, and the reason.

    Args:
        min_lift: Least improvement over the incumbent, in gain per opportunity.
        margin: Accepted loss against our own last model, as a fraction of its value. None means an external incumbent.
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
    """Return why an estimate of the two policies' values is not reliable, or None."""
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
