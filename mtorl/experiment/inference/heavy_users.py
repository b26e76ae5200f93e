"""Computes weights of users, so that a single busy user can neither block nor decide a verdict.

    figures *= user_weights(decisions)[:, None]         # for numerator and denominator alike

A probe, a bot or an id that many visitors share may have 40 % of an arm's decisions, and would then determine the arm's
ratio. So a user counts as at most `HEAVIEST` typical users: the weight is min(1, HEAVIEST * typical / decisions).
`typical` is the median number of decisions per user in the stage, over all arms. In a stage with few users, it is at
most the median of all stages. Outcomes do not affect weights. If an arm's users have more decisions, its busy users get
lower weights, which changes the lift slightly (docs/limitations.md). `benchmarks/experiments.py` tries it with bots.
"""

import numpy as np

from mtorl.experiment.inference.sums import Floats

HEAVIEST = 10.0  # largest number of typical users that one user may count as


def user_weights(decisions: Floats, typical: Floats | float | None = None) -> Floats:
    """Return weights in (0, 1], in the shape of `decisions`; `typical` is by default the median of `decisions`."""
    most = HEAVIEST * (np.median(decisions) if typical is None else typical)
    return np.minimum(1.0, most / np.maximum(decisions, 1.0))
