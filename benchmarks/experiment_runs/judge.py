"""Computes verdicts of simulated experiments, with the same statistics as for real experiments."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy.stats import binomtest

from mtorl.experiment.inference.statistics import confidence_sequence, estimate, fixed_interval
from mtorl.experiment.inference.sums import Sums

ALPHA = 0.05


def judge(runs: Iterable[Sums], true_lift: float) -> dict[str, Any]:
    """Compute the verdict of each simulated experiment at several points in time, the looks.

    The sums in `runs` have the axes (looks, ...) or (experiments, looks, ...). Returns shares of the experiments:

    - `missed`: at some look, the confidence interval did not contain the true lift.
    - `decided`: a verdict was reached, on average after `users_share` of all users.
    - `fixed`: an ordinary test at the end was significant.
    """
    parts = zip(*(_at_every_look(sums, true_lift) for sums in runs), strict=True)
    misses, decided, fixed, users_share = map(np.concatenate, parts)
    return {
        "runs": len(misses),
        **rate_of(misses),
        "decided": float(decided.mean()),
        "users_share": float(users_share.mean()) if len(users_share) else None,
        "fixed": float(fixed.mean()),
    }


def rate_of(misses: np.ndarray) -> dict[str, float]:
    """Return the share of missed lifts (`missed`), and the upper end of its 95 % confidence interval."""
    missed, count = int(misses.sum()), len(misses)
    return {"missed": missed / count, "missed_at_most": float(binomtest(missed, count).proportion_ci().high)}


def _at_every_look(sums: Sums, true_lift: float) -> tuple[np.ndarray, ...]:
    found = estimate(sums)
    low, high = confidence_sequence(found.value, found.se, found.effective_users, alpha=ALPHA)
    excludes = np.atleast_2d((low > 0.0) | (high < 0.0))
    users = np.atleast_2d(sums.users.sum((-1, -2)))
    one_look = fixed_interval(found.value[..., -1], found.se[..., -1], alpha=ALPHA)
    return (
        np.atleast_1d(((high < true_lift) | (low > true_lift)).any(-1)),
        excludes.any(-1),
        np.atleast_1d((one_look[0] > 0.0) | (one_look[1] < 0.0)),
        (users / users[:, -1:])[excludes.cumsum(-1) * excludes == 1],
    )
