"""Sample ratio mismatch: tests at every look, with one error rate, that the arms fill as configured.

Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv:2011.03567: under the
configured shares theta, the Bayes factor of a Dirichlet(kappa theta) mixture of all shares against theta itself,

    M_n = Gamma(kappa) / Gamma(kappa + n)  *  prod_a  Gamma(kappa theta_a + x_a) / (Gamma(kappa theta_a) theta_a^x_a),

is a martingale, so that it ever reaches 1 / alpha with probability alpha at most: 1 / M_n is a p-value at all looks.

A challenger's users mostly stay with it in later stages. So the stages' martingales are not independent, and must not
be multiplied. Each stage gets its share of the error rate instead (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import gammaln

SRM_ALARM = 0.01  # probability that a healthy experiment is ever called mismatched
CONCENTRATION = 100.0  # kappa: a stage of 300 users that is split 2 : 1 instead of evenly is found

Stage = tuple[Mapping[str, int], Mapping[str, float]]
"""The distinct users in each arm, and each arm's configured share (any positive scale)."""


def srm_p_value(stages: Sequence[Stage], *, planned: int = 1) -> float:
    """P-value that holds at all looks together; 0.0 when an arm that should be empty has users.

    The error is shared among the stages that are `planned` in all.
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
