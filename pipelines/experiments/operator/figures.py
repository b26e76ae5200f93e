"""The figures of an object's status, which `kubectl get exp` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.experiments.document import Spend
from mtorl.experiment.arm import ALL_ARMS

FIGURES = ("users", "lift", "interval", "spend", "verdict", "reason")


def figures_of(verdict: Mapping[str, Any], spend: Sequence[Spend]) -> dict[str, Any]:
    """What a status shows of a verdict and the accounts: `FIGURES`.

    Args:
        verdict: As of `monitoring.verdict.verdict`.
        spend: Of each account, as of `monitoring.experiments.traffic`.
    """
    lift, relative, (low, high) = verdict["lift"], verdict["relative_lift"], verdict["lift_ci"]
    arms = verdict["arms"].values()
    of_incumbent = "" if relative is None else f" ({relative:+.1%})"
    totals = [one for one in spend if (one["arm"], one["channel"], one["period"]) == (ALL_ARMS, "*", "total")]
    of_all = [one for one in totals if one["campaign"] == "*"] or totals
    spent = [one["spent"] for one in of_all] or [arm["cost"] for arm in arms]  # without a total, what counts
    return {
        "users": verdict["users"],
        "lift": None if lift is None else f"{lift:+.3g}{of_incumbent}",  # in the interval's unit
        "interval": None if low is None or high is None else f"[{low:+.3g}, {high:+.3g}]",
        "spend": f"{sum(spent):.2f}",
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
    }
