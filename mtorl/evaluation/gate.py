"""Promotes or rejects a challenger by the lower bound of its value over the incumbent's.

    decision, reason = gate(value_difference(challenger, incumbent, log, budget_share, seed, forecasts), min_lift=0.0)

A log says nothing about an exposure that could not have happened: one on a channel that was never drawn there, or that
the logging policy never wanted to show. The mean weight does not tell. So the gate bounds the share of such exposures.
"""

from collections.abc import Mapping
from typing import Any

from mtorl.evaluation.importance_weights import rejection_reason
from mtorl.evaluation.value_difference import ARMS

MAX_IMPOSSIBLE = 0.05  # largest share of an arm's exposures of which the log can say nothing

MIN_USERS = 20  # fewer users say too little of how much users differ, however many decisions they have

MIN_ESS, MIN_ESS_ROWS = 0.01, 100
"""Smallest effective sample size of either arm: as a share of rows, and as a number of rows."""


def gate(estimate: Mapping[str, Any], min_lift: float = 0.0) -> tuple[str, str]:
    """Return "promote" or "reject", and the reason in words.

    The lower bound of `value_difference` (or its JSON) must exceed `min_lift`, gain per opportunity.
    """
    if reason := refusal(estimate):
        return "reject", reason
    low, high = estimate["difference_ci"]
    bounds = f"challenger - incumbent is {estimate['difference']:+.4g}, 95 % interval [{low:+.4g}, {high:+.4g}]"
    if low > min_lift:
        return "promote", f"{bounds}: all above {min_lift:g}"
    return "reject", f"{bounds}: not all above {min_lift:g}"


def refusal(estimate: Mapping[str, Any]) -> str | None:
    """Reason not to use an estimate, in words; None if there is none."""
    if estimate["users"] < MIN_USERS:
        return f"the log says too little: {estimate['users']} test users, at least {MIN_USERS} are needed"
    for arm in ARMS:
        if (impossible := estimate["impossible"][arm]) > MAX_IMPOSSIBLE:
            return (
                f"the log can't say what the {arm} is worth: {impossible:.0%} of its exposures are of a kind that no "
                f"policy of the log could make, {MAX_IMPOSSIBLE:.0%} may be at most; let arms explore what to expose, "
                "and collect what they decide from then on by itself"
            )
        weights = {name: estimate[name][arm] for name in ("ess", "mean_weight", "mean_weight_ci")}
        least = max(MIN_ESS * estimate["rows"], MIN_ESS_ROWS)
        if reason := rejection_reason({**weights, "rows": estimate["rows"]}, arm, least):
            return reason
    return None
