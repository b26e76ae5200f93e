"""Finds the secondary metrics that differ between arms, with a bounded false discovery rate at any look.

The false discovery rate is the expected share of false results among the metrics that are called significant
(Benjamini, Hochberg 1995). E-values bound this rate even if the metrics depend on each other: Wang and Ramdas, "False
discovery rate control with e-values", JRSS B 84(3), 2022, arXiv:2009.02824.
"""

import math
from collections.abc import Sequence

import numpy as np

from mtorl.experiment.inference.statistics import sequence_times


def log_e_value(value: float, se: float, users: float, *, alpha: float) -> float:
    """Return the logarithm of the e-value, which is the evidence that the arms differ in one metric.

    Returns -inf if the difference or its standard error is not finite.

    Args:
        users: Effective number of users in both arms.
        alpha: Error rate at which the e-value is most sensitive.
    """
    if not (math.isfinite(value) and math.isfinite(se)):
        return -math.inf
    if se == 0.0:
        return 0.0 if value == 0.0 else math.inf
    k = sequence_times(users, alpha)
    return float(0.5 * ((value / se) ** 2 * k / (k + 1.0) - np.log1p(k)).min())


def p_value(log_e: float) -> float:
    """Return an always-valid p-value from the logarithm of an e-value."""
    return math.exp(min(0.0, -log_e))


def discoveries(log_e: Sequence[float], alpha: float) -> list[bool]:
    """Decide for each metric whether the arms differ, with a false discovery rate of at most `alpha`.

    Args:
        log_e: Result of `log_e_value` for each metric.
    """
    of_all = len(log_e)
    ordered = sorted(log_e, reverse=True)
    found = [k for k, value in enumerate(ordered, 1) if value >= math.log(of_all / (k * alpha))]
    return [bool(found) and value >= ordered[found[-1] - 1] for value in log_e]
