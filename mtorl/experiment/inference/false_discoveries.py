"""Many metrics, few false discoveries: which of the secondary metrics differ, at any look.

    logs = [log_e_value(lift.value, lift.se, lift.effective_users, alpha=.05) for lift in lifts]
    discoveries(logs, 0.05)

Of the metrics that are called significant a share of alpha at most is false, on average: the false discovery rate
(Benjamini, Hochberg 1995). Evidence against "no difference" is the value of the mixture behind the always-valid
interval: a bet that is worth 1 on average if there is none, at whatever look one stops; the interval excludes zero just
where it is worth more than 1 / alpha. Benjamini and Hochberg's procedure with such e-values (e-BH) keeps its rate
however the metrics depend on each other, which that with p-values does not: Wang and Ramdas, "False discovery rate
control with e-values", JRSS B 84(3), 2022, arXiv:2009.02824.
"""

import math
from collections.abc import Sequence

import numpy as np

from mtorl.experiment.inference.statistics import sequence_times


def log_e_value(value: float, se: float, users: float, *, alpha: float) -> float:
    """Logarithm of the evidence against a difference of zero, fastest for error rate alpha; -inf if unknown."""
    if not (math.isfinite(value) and math.isfinite(se)):
        return -math.inf
    if se == 0.0:
        return 0.0 if value == 0.0 else math.inf
    k = sequence_times(users, alpha)
    return float(0.5 * ((value / se) ** 2 * k / (k + 1.0) - np.log1p(k)).min())


def p_value(log_e: float) -> float:
    """Always-valid p-value: below any level with that probability at most, over all looks together."""
    return math.exp(min(0.0, -log_e))


def discoveries(log_e: Sequence[float], alpha: float) -> list[bool]:
    """Mark the differences that are discoveries at false discovery rate alpha, by their `log_e_value`."""
    of_all = len(log_e)
    ordered = sorted(log_e, reverse=True)
    found = [k for k, value in enumerate(ordered, 1) if value >= math.log(of_all / (k * alpha))]
    return [bool(found) and value >= ordered[found[-1] - 1] for value in log_e]
