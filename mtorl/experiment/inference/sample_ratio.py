"""Tests whether users reach the arms in the configured shares, with one error rate for all looks.

Other shares (a sample ratio mismatch) make every result invalid. The test is from Lindon and Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022, arXiv:2011.03567. Arm a has x_a of the n users, and the configured
share theta_a. If the configured shares apply, the Bayes factor

    M_n = Gamma(kappa) / Gamma(kappa + n)  *  prod_a  Gamma(kappa theta_a + x_a) / (Gamma(kappa theta_a) theta_a^x_a),

is a martingale, so 1 / M_n is a p-value for all looks. The stages' martingales share users, so they must not be
multiplied. Instead, each stage gets a share of the error rate (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import gammaln

# Probability of a false alarm, over all looks.
SRM_ALARM = 0.01
# Parameter kappa of the test. With this value, 300 users suffice to detect a split of 2 : 1 instead of 1 : 1.
CONCENTRATION = 100.0

Stage = tuple[Mapping[str, int], Mapping[str, float]]
"""One stage: the number of distinct users by arm, and the configured share by arm. Only the ratios of the shares
matter."""


def srm_p_value(stages: Sequence[Stage], *, planned: int = 1) -> float:
    """Return the p-value of a sample ratio mismatch, which is valid for all stages and looks together.

    Args:
        planned: Number of planned stages, which share the error rate equally.
    """
    return min([1.0, *(planned * math.exp(min(0.0, -_log_martingale(*stage))) for stage in stages)])


def _log_martingale(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    arms = [arm for arm, share in shares.items() if share > 0.0]
    if any(count > 0 and arm not in arms for arm, count in users.items()):
        return math.inf
    counts = np.array([users.get(arm, 0) for arm in arms], dtype=np.float64)
    theta = np.array([shares[arm] for arm in arms], dtype=np.float64)
    theta /= theta.sum()
    prior = CONCENTRATION * theta
    found = (gammaln(prior + counts) - gammaln(prior) - counts * np.log(theta)).sum()
    return float(found + gammaln(CONCENTRATION) - gammaln(CONCENTRATION + counts.sum()))
