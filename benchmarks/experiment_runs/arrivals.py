"""Simulates experiments in which each user comes once, and for which a verdict is computed several times.

Each experiment has only one stage.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.experiment_runs.judge import judge
from benchmarks.experiment_runs.markets import Clicks, Revenue
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.sums import Sums

HOURS = 28 * 24
# Number of experiments that are simulated at a time.
_AT_ONCE = 100
# Number of users, and standard deviation of the logarithm of a user's decisions, in `uneven`.
USERS, SIGMA = 10_000, 1.5


def looks(kind: str, users: int) -> np.ndarray:
    """Return the number of users at each look, which is one evaluation of the experiment.

    "geometric" is 20 looks in a geometric series; "hourly" is a look per hour for four weeks.
    """
    sizes = {
        "geometric": lambda: np.geomspace(100, users, 20),
        "hourly": lambda: np.linspace(users / HOURS, users, HOURS),
    }
    return np.unique(sizes[kind]().round().astype(np.int64))


def runs(
    market: Clicks | Revenue, share: float, users: np.ndarray, count: int, rng: np.random.Generator
) -> Iterator[Sums]:
    """Simulate `count` experiments, and yield their sums over users, with the first axes experiment and look.

    `users` is the number of users at each look, of whom the challenger gets `share`.
    """
    new = np.diff(users, prepend=0)
    for first in range(0, count, _AT_ONCE):
        challengers = rng.binomial(new, share, (min(_AT_ONCE, count - first), len(new)))
        arms = [market.arm(rng, challengers, True), market.arm(rng, new - challengers, False)]
        products = np.zeros((*challengers.shape, 4, 4))
        for arm, sums in enumerate(arms):
            products[..., 2 * arm : 2 * arm + 2, 2 * arm : 2 * arm + 2] = sums.products
        yield Sums(
            *(np.stack([getattr(sums, name) for sums in arms], 2)[:, :, :, None] for name in ("users", "positive")),
            np.stack([sums.totals for sums in arms], 2)[:, :, :, None, :],
            products,
        )


def uneven(share: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Measure false differences in A/A experiments in which some users have far more decisions than others.

    Users with many decisions click less often.
    """
    looked = looks("geometric", USERS)
    judged = judge((_uneven(share, looked, rng) for _ in range(runs)), 0.0)
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
