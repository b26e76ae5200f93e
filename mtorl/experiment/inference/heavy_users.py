"""Computes weights of users, so that a single busy user can neither block nor decide a verdict.

A bot may have 40 % of an arm's decisions. So no user counts more than `HEAVIEST` typical users. Weights do not depend
on outcomes.
"""

import numpy as np

from mtorl.experiment.inference.sums import Floats

# A user counts at most as much as this many typical users.
HEAVIEST = 10.0


def user_weights(decisions: Floats, typical: Floats | float | None = None) -> Floats:
    """Return the weight of each user, in (0, 1].

    Args:
        decisions: Number of decisions of each user.
        typical: Number of decisions of a typical user; by default, the median.
    """
    most = HEAVIEST * (np.median(decisions) if typical is None else typical)
    return np.minimum(1.0, most / np.maximum(decisions, 1.0))
