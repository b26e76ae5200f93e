"""The best allocation of a budget between channels and opportunities, and its prices.

With budgets per opportunity W_c and W, the best allocation y of opportunities b to channels c is the linear programme

    max  mean_b sum_c y_bc gain_bc      such that   y_bc >= 0,   sum_c y_bc <= 1                 each opportunity
                                                    mean_b y_bc cost_bc <= W_c                   each channel
                                                    mean_b sum_c y_bc cost_bc <= W               all of them

Its dual variables are prices, in gain per currency unit: lambda for the total, lambda_c more on channel c. An
opportunity then goes where gain - (lambda + lambda_c) * cost is highest, if that is not negative: the decision rule.

    best = best_allocation(gain_BC, cost_BC, budgets)             the upper bound, and its prices
    gain_bound(gain_BC, cost_BC, budgets, best.prices)            no allocation of these rows earns more
    decide(..., price_BC=best.prices.row_1C)

Any prices bound the gain of *every* allocation from above (weak duality), at the cost of one pass over the rows. For
large data, solve a random sample of 10,000 rows; `gain_bound` on all rows says how far from the best its prices can be.

All sums are expectations of the predictions. A ledger, not a price, keeps actual spend below a budget.

Shapes: B opportunities, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import linprog

from mtorl.arrays import Floats
from mtorl.policy.decision import expected_utility

_ROUNDING = 1e-12  # a sum in another order differs in the last digits


@dataclass(frozen=True)
class Budgets:
    """Currency units per opportunity: a budget divided by the opportunities it has to last for."""

    channel_C: Floats  # infinite where a channel has no budget of its own
    total: float = np.inf

    def __post_init__(self) -> None:
        if self.channel_C.ndim != 1 or not (self.channel_C > 0).all():  # NaN fails the comparison
            raise ValueError(f"channel_C must be one positive number a channel, got {self.channel_C}")
        if not self.total > 0:
            raise ValueError(f"total must be positive, got {self.total}")


@dataclass(frozen=True)
class Prices:
    """Gain that one currency unit must earn, >= 0; 0 where a budget does not bind."""

    channel_C: Floats  # on top of the total's
    total: float

    @property
    def row_1C(self) -> Floats:
        """Price of an exposure on each channel, for `decide(price_BC=...)`."""
        row: Floats = (self.total + self.channel_C)[None]
        return row


@dataclass(frozen=True)
class Allocation:
    """Shares of each opportunity and their prices; `gain` and `spend_C` are per opportunity, within the budgets."""

    prices: Prices
    share_BC: Floats  # probability that the opportunity is spent on the channel; the rest of a row is no exposure
    gain: float
    spend_C: Floats  # currency units


def best_allocation(gain_BC: ArrayLike, cost_BC: ArrayLike, budgets: Budgets) -> Allocation:
    """Solve the linear programme (HiGHS, interior point with crossover), in a little more than linear time.

    Args:
        gain_BC: Expected gain; a negative estimate is read as zero. A channel that an opportunity cannot use gets zero.
        cost_BC: Expected cost, currency units, >= 0.
    """
    gain, cost = _checked(gain_BC, cost_BC, budgets)
    rows, channels = gain.shape
    # The solver's tolerances are absolute: hand it numbers around 1, whatever the currency.
    gain_unit, cost_unit = gain.mean() or 1.0, cost.mean() or 1.0
    variable = np.arange(gain.size)
    row, channel = np.divmod(variable, channels)
    limit = np.r_[budgets.channel_C, budgets.total]
    limited = np.flatnonzero(np.isfinite(limit))
    spend = sparse.vstack(
        [
            sparse.csr_array(((cost / cost_unit).ravel(), (channel, variable)), shape=(channels, gain.size)),
            sparse.csr_array((cost / cost_unit).reshape(1, -1)),
        ],
        format="csr",
    )[limited]
    once = sparse.csr_array((np.ones(gain.size), (row, variable)))
    solution = linprog(
        -(gain / gain_unit).ravel(),
        A_ub=sparse.vstack([once, spend], format="csr"),
        b_ub=np.r_[np.ones(rows), rows * limit[limited] / cost_unit],
        method="highs-ipm",
    )
    if not solution.success:
        raise RuntimeError(f"the linear programme was not solved: {solution.message}")
    price = np.zeros(channels + 1)
    price[limited] = np.maximum(-solution.ineqlin.marginals[rows:], 0.0) * gain_unit / cost_unit
    share_BC: Floats = np.maximum(solution.x.reshape(rows, channels), 0.0)
    # The solver may exceed a limit by its tolerance; the shares are scaled down so that none is exceeded at all.
    spend_C = (share_BC * cost).mean(axis=0)
    used = np.r_[share_BC.sum(axis=1).max(), spend_C / budgets.channel_C, spend_C.sum() / budgets.total]
    share_BC /= max(1.0, used.max() * (1 + _ROUNDING))
    earned = float((share_BC * gain).sum(axis=1).mean())
    return Allocation(Prices(price[:-1], float(price[-1])), share_BC, earned, (share_BC * cost).mean(axis=0))


def gain_bound(gain_BC: ArrayLike, cost_BC: ArrayLike, budgets: Budgets, prices: Prices) -> float:
    """Upper bound of the gain per opportunity within the budgets: the dual function at these prices.

        mean_b max(0, max_c gain_bc - (lambda + lambda_c) cost_bc)  +  sum_c lambda_c W_c  +  lambda W

    It is lowest, and equal to the best allocation's gain, at that allocation's prices.
    """
    gain, cost = _checked(gain_BC, cost_BC, budgets)
    kept = np.maximum(expected_utility(gain, cost, prices.row_1C).max(axis=1), 0.0).mean()
    paid = [
        price * limit
        for price, limit in zip(
            np.r_[prices.channel_C, prices.total], np.r_[budgets.channel_C, budgets.total], strict=True
        )
        if price > 0  # without a limit and without a price nothing is paid, and 0 * inf is not 0
    ]
    return float(kept + sum(paid))


def _checked(gain_BC: ArrayLike, cost_BC: ArrayLike, budgets: Budgets) -> tuple[Floats, Floats]:
    """Gain and cost as arrays, with no gain below zero."""
    gain = expected_utility(gain_BC, cost_BC, 0.0)  # checked, and negative gains set to zero, as the decision rule does
    if not len(gain):
        raise ValueError("gain_BC has no rows")
    if budgets.channel_C.shape != gain.shape[1:]:
        raise ValueError(f"budgets: {len(budgets.channel_C)} channels, but gain_BC has {gain.shape[1]}")
    return gain, np.asarray(cost_BC, dtype=np.float64)
