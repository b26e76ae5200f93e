"""Weights that keep one busy user from holding, or deciding, a verdict.

    figures *= user_weights(decisions)[:, None]         # numerator and denominator alike

A probe, a bot or an id that many visitors share may make 40 % of an arm's decisions, and its ratio then is the arm's.
So a user counts as `HEAVIEST` typical users at most, with the weight min(1, HEAVIEST * typical / decisions). Typical is
the median of a user's decisions in the stage, of all arms; of a stage of few users, at most that of all stages. No
outcome has a part in it. An arm whose users decide oftener gives its busy users less weight, by which lifts differ a
little (docs/limitations.md). `benchmarks/experiments.py` shows the error rates with bots.
"""

import numpy as np

from mtorl.experiment.inference.sums import Floats

HEAVIEST = 10.0  # typical users that one user counts as at most


def user_weights(decisions: Floats, typical: Floats | float | None = None) -> Floats:
    """Weights of users in (0, 1], of the shape of `decisions`; `typical` by default is the median of those given."""
    most = HEAVIEST * (np.median(decisions) if typical is None else typical)
    return np.minimum(1.0, most / np.maximum(decisions, 1.0))
