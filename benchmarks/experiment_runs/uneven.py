"""A/A experiments whose users differ in how often they decide, by a factor of hundreds; the busy ones click less.

At each look the users have the weights (`heavy_users.py`) of the decisions seen until then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiment_runs import arrivals
from benchmarks.experiment_runs.judge import judge
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.sums import Sums

USERS, SIGMA = 10_000, 1.5


def measure(share: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """How often such an experiment is wrong."""
    looks = arrivals.looks("geometric", USERS)
    judged = judge((_uneven(share, looks, rng) for _ in range(runs)), 0.0)
    return {"share": share, "runs": runs, "missed": judged["missed"], "missed_at_most": judged["missed_at_most"]}


def _uneven(share: float, looks: np.ndarray, rng: np.random.Generator) -> Sums:
    decisions = np.ceil(rng.lognormal(0.0, SIGMA, looks[-1]))
    rates = rng.beta(1.0, 4.0 + np.log(decisions))
    figures = np.stack([rng.binomial(decisions.astype(np.int64), rates), decisions], -1).astype(np.float64)
    ours = rng.random(len(figures)) < share
    shape = (len(looks), 2, 1)
    sums = Sums(np.zeros(shape), np.zeros(shape), np.zeros((*shape, 2)), np.zeros((len(looks), 4, 4)))
    for look, users in enumerate(looks):
        weighted = figures[:users] * user_weights(decisions[:users])[:, None]
        for arm, there in enumerate((ours[:users], ~ours[:users])):
            rows, cell = weighted[there], slice(2 * arm, 2 * arm + 2)
            sums.users[look, arm], sums.positive[look, arm] = len(rows), (rows[:, 0] > 0).sum()
            sums.totals[look, arm], sums.products[look, cell, cell] = rows.sum(0), rows.T @ rows
    return sums
