"""Computes weights of users, so that a single busy user can neither block nor decide a verdict.

A bot, or an id that many visitors share, may have 40 % of an arm's decisions. The weight min(1, HEAVIEST * typical /
decisions) limits a user to `HEAVIEST` typical users. Outcomes do not affect weights.
"""

import numpy as np

from mtorl.experiment.inference.sums import Floats

# A user counts at most as much as this many typical users.
HEAVIEST = 10.0


def user_weights(decisions: Floats, typical: Floats | float | None = None) -> Floats:
    """Return the weight of each user, in (0, 1].

    Args:
        decisions: Number of decisions of each user.
        typical: Number of decisions of a typical user; by default, the median of `decisions`.
    """
    most = HEAVIEST * (np.median(decisions) if typical is None else typical)
    return np.minimum(1.0, most / np.maximum(decisions, 1.0))
