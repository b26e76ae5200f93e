"""Experiments whose users have a past: what each did before it met any arm, and a forecast, adjust the lift.

Some users have neither. Bots, where a market has them, decide as often before as they do then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from benchmarks.experiment_runs.markets import DECISIONS_OF_A_BOT, Clicks, Revenue
from mtorl.experiment.adjustment import figures_with, standardised
from mtorl.experiment.sums import Floats, Sums

VISITS_BEFORE = 20
NEW = 0.2  # share of the users who have no past
NOISE = 0.3  # standard deviation of the logarithm of a forecast about a user's own rate


def covariates(market: Clicks | Revenue, rng: np.random.Generator, rates: Floats, bots: np.ndarray) -> Floats:
    """Covariates of users, (U, K): decisions and what came of them before, and a forecast; NaN without a past."""
    if isinstance(market, Clicks):
        decisions = VISITS_BEFORE + rng.poisson(2 * VISITS_BEFORE, len(rates))
        gain = rng.binomial(decisions, rates).astype(np.float64)
    else:
        decisions = np.full(len(rates), VISITS_BEFORE)
        gain = rng.binomial(decisions, rates) * market.visit(rng, np.ones(len(rates)))[:, 0]
    found = np.stack([gain, decisions, rates * rng.lognormal(0.0, NOISE, len(rates))], -1)
    found[bots] = [0.0, VISITS_BEFORE * DECISIONS_OF_A_BOT, 0.0]
    found[rng.random(len(rates)) < NEW] = np.nan
    return standardised(found)


def runs(
    market: Clicks | Revenue, users: int, shares: Sequence[float], looks: np.ndarray, count: int, seed: int
) -> Iterator[list[Sums]]:
    """Of each run the sums with the axis (looks), for each share of the challenger; users come once.

    Args:
        market: What users do; the challenger's click more often, or for more, by its lift.
        users: Of each run.
        shares: Of the challenger.
        looks: Numbers of users at which people look, ascending.
        count: Runs.
        seed: Of all randomness.
    """
    new_at = np.searchsorted(looks, np.arange(users), side="right")  # the first look that sees a user
    for run in range(count):
        rng = np.random.default_rng([seed, run])
        rates = market.rates(rng, users)
        bots = rng.random(users) < getattr(market, "bots", 0.0)
        known, place = covariates(market, rng, rates, bots), rng.random(users)
        part = np.searchsorted(shares, place, side="right")  # of the users, who move to the challenger together
        incumbent = _by_part(figures_with(_visit(market, rng, rates, bots, False), known), part, new_at, shares, looks)
        challenged = incumbent
        if market.lift:
            better = figures_with(_visit(market, rng, rates, bots, True), known)
            challenged = _by_part(better, part, new_at, shares, looks)
        of_share = []
        for chosen in range(1, len(shares) + 1):
            arms = [challenged[:, :chosen].sum(1), incumbent[:, chosen:].sum(1)]
            of_share.append(_sums(np.stack(arms, 1), known.shape[1] + 3))
        yield of_share


def _visit(
    market: Clicks | Revenue, rng: np.random.Generator, rates: Floats, bots: np.ndarray, challenger: bool
) -> Floats:
    more = 1.0 + market.lift * challenger
    if isinstance(market, Clicks):
        figures = market.visit(rng, np.minimum(rates * more, 1.0))
    else:
        figures = market.visit(rng, rates) * [more, 1.0]
    figures[bots] = [0.0, DECISIONS_OF_A_BOT]
    return figures


def _with_products(rows: Floats) -> Floats:
    """What is added up of each user: 1, whether its numerator is above 0, its figures, and their products."""
    first, second = np.triu_indices(rows.shape[1])
    return np.concatenate([np.ones((len(rows), 1)), rows[:, :1] > 0, rows, rows[:, first] * rows[:, second]], 1)


def _by_part(rows: Floats, part: np.ndarray, new_at: np.ndarray, shares: Sequence[float], looks: np.ndarray) -> Floats:
    """Of the users of each part seen at each look, (L, parts, ...)."""
    parts = len(shares) + 1
    cell = sparse.csr_array(
        (np.ones(len(rows)), (new_at * parts + part, np.arange(len(rows)))), shape=(len(looks) * parts, len(rows))
    )
    return np.asarray(cell @ _with_products(rows)).reshape(len(looks), parts, -1).cumsum(0)


def at_looks(rows: Floats, challenger: np.ndarray, starts: np.ndarray) -> Sums:
    """Sums with the axis (looks) of users in the order of their arrival.

    Args:
        rows: Figures of the users, (U, F).
        challenger: Whose arm it is, (U,).
        starts: Of each look, the first user who is new to it, (L,).
    """
    new_at = np.searchsorted(starts, np.arange(len(rows)), side="right") - 1
    return _sums(_by_part(rows, 1 - challenger.astype(np.intp), new_at, (0.5,), starts), rows.shape[1])


def _sums(added: Floats, size: int) -> Sums:
    """From what was added up, (L, A, ...), of so many figures."""
    first, second = np.triu_indices(size)
    products = np.zeros((len(added), 2, size, 2, size))
    for arm in range(2):
        products[:, arm, first, arm, second] = products[:, arm, second, arm, first] = added[:, arm, 2 + size :]
    return Sums(
        added[:, :, 0, None],
        added[:, :, 1, None],
        added[:, :, None, 2 : 2 + size],
        products.reshape(len(added), 2 * size, 2 * size),
    )


def unadjusted(sums: Sums) -> Sums:
    """Without the covariates."""
    *_, arms, stages, size = sums.totals.shape
    kept = np.arange(arms * stages * size).reshape(-1, size)[:, :2].ravel()
    return Sums(sums.users, sums.positive, sums.totals[..., :2], sums.products[..., kept[:, None], kept])
