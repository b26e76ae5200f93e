"""Experiments of one stage whose users come once, looked at while they arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.experiment_runs.markets import Clicks, Revenue
from mtorl.experiment.inference.sums import Sums

HOURS = 28 * 24
_AT_ONCE = 100  # runs


def looks(kind: str, users: int) -> np.ndarray:
    """Numbers of users at which people look: geometric and linear, 20 times; hourly, over four weeks."""
    sizes = {
        "geometric": lambda: np.geomspace(100, users, 20),
        "linear": lambda: np.linspace(users / 20, users, 20),
        "hourly": lambda: np.linspace(users / HOURS, users, HOURS),
    }
    return np.unique(sizes[kind]().round().astype(np.int64))


def runs(
    market: Clicks | Revenue, share: float, users: np.ndarray, count: int, rng: np.random.Generator
) -> Iterator[Sums]:
    """Sums with the axes (runs, looks), some runs at a time."""
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
