"""Computes weights of users, so that a single busy user can neither block nor decide a verdict.

    figures *= user_weights(decisions)[:, None]         # numerator and denominator get the same weight

A bot, or an id that many visitors share, may have 40 % of an arm's decisions, and would then determine the metric of
the arm. So a user counts as at most `HEAVIEST` typical users: the weight is min(1, HEAVIEST * typical / decisions). A
typical user has the median number of decisions per user in the stage, over all arms. In a stage with few users,
`typical` is at most the median of all stages.

Outcomes do not affect weights. But if a challenger causes more decisions per user, its busy users get lower weights,
which changes the lift slightly (docs/limitations.md). `benchmarks/experiments.py` tests the weights with bots.
"""

import numpy as np

from mtorl.experiment.inference.sums import Floats

# A user counts at most as much as this number of typical users.
HEAVIEST = 10.0


def user_weights(decisions: Floats, typical: Floats | float | None = None) -> Floats:
    """Return the weight of each user, in (0, 1].

    Args:
        decisions: Number of decisions of each user, in an array of any shape.
        typical: Number of decisions of a typical user; by default, the median of `decisions`.
    """
    most = HEAVIEST * (np.median(decisions) if typical is None else typical)
    return np.minimum(1.0, most / np.maximum(decisions, 1.0))
