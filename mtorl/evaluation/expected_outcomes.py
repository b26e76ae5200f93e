"""Forecasts the outcomes of exposures that are rare in a log, and bounds the errors of these forecasts.

    outcomes = second_opinion(windows, moments, users_B, encoder, lightgbm.fit_outcomes, seed=0)
    mean, doubt = mean_and_doubt([of_the_challenger, outcomes], shape)
    doubt_2, of_difference = doubts(left_2BC, doubt, gain_2, cost_2, share_2, budget_1)
    unsure = unsure_of(left_2BC, [of_the_challenger, outcomes], error_C)

Two models forecast the outcomes. The true total outcome of a channel is assumed to lie between the two forecast totals.
Half of the difference between these totals is called *doubt*, and bounds the bias of an estimate. Errors of single rows
average out within a channel. If both policies make an exposure, the doubt about its outcome cancels in their
difference, because the outcome is the same for both.

The second model also has a sampling error (*unsure*), because other training users would lead to other forecasts. If a
channel was hardly ever exposed, both models may forecast the same wrong mean. So the sampling error of the channel's
mean gain in the log is added.

The second model is trained on test users, who were not used to train the challenger. The outcomes of each fold of users
are forecast by a model that was trained on the other folds (cross-fitting: Chernozhukov et al. 2018, arXiv:1608.00060).
The sampling error is estimated from the differences between these models (jackknife). docs/evaluation.md gives the
reasons for this method.

Shapes: L rows to learn from, B rows to forecast, C channels, K models of a jackknife, 2 arms (challenger, incumbent),
3 both arms and their difference, X a log and its resamples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from mtorl.arrays import Floats, Ints
from mtorl.log.splits import folds_of
from mtorl.window.encoder import Encoder
from mtorl.window.on_demand import Windows
from mtorl.window.table import WindowTable

FOLDS = 5
FEWEST_USERS = 20
# More touchpoints would hardly improve the second model.
MOST_TOUCHPOINTS = 200_000

Users = pd.Series | Iterable[str]


@dataclass(frozen=True)
class ExpectedOutcomes:
    """A model's forecast of the gain and cost of an exposure on each channel, for each row of a log."""

    gain_BC: Floats
    cost_BC: Floats
    # Forecast gains of the jackknife's models, each trained without one fold of the users.
    replicates: tuple[Floats, ...] = ()


Fit = Callable[[Windows, Windows, Encoder, int], Any]
"""Type of `mtorl.baselines.lightgbm.fit_outcomes`, which fits a model of outcomes from training windows, windows for
early stopping, the encoder and a seed."""


def second_opinion(
    windows: str, moments: Windows, users_B: Users, encoder: Encoder, fit: Fit, seed: int
) -> ExpectedOutcomes | None:
    """Forecast the gain and cost of exposures on test users, with models that were trained on other test users.

    Returns None if there are too few test users.

    Args:
        moments: Windows of the B decisions to forecast.
    """
    known, stopping = (WindowTable.load(windows, split, most=MOST_TOUCHPOINTS) for split in ("test", "val"))
    learn_from, stop_on = known.on_demand("test", targets=True), stopping.on_demand("val", targets=True)

    def expected(learned: Ints) -> ExpectedOutcomes:
        reward_BC, cost_BC = fit(learn_from.only(learned), stop_on, encoder, seed).predict(moments)
        return ExpectedOutcomes(np.maximum(encoder.unreward(reward_BC, cost_BC), 0.0), cost_BC)

    return cross_fitted(known.rows["user_id"], users_B, expected)


def cross_fitted(
    known_users_L: Users, users_B: Users, expected: Callable[[Ints], ExpectedOutcomes]
) -> ExpectedOutcomes | None:
    """Forecast the outcomes of each user with a model that was trained on other users.

    Returns None if there are too few users.

    Args:
        expected: Trains a model on some of the rows L, and returns its forecasts for all rows B.
    """
    if pd.Series(known_users_L, dtype=object).nunique() < FEWEST_USERS:
        return None
    fold_L, fold_B = folds_of(known_users_L, FOLDS), folds_of(users_B, FOLDS)
    models = [expected(np.flatnonzero(fold_L != fold)) for fold in range(FOLDS)]
    at = fold_B, np.arange(len(fold_B))
    gain_BC, cost_BC = (np.stack([getattr(model, name) for model in models])[at] for name in ("gain_BC", "cost_BC"))
    return ExpectedOutcomes(gain_BC, cost_BC, tuple(model.gain_BC for model in models))


def mean_and_doubt(
    forecasts: Sequence[ExpectedOutcomes], shape: tuple[int, ...]
) -> tuple[ExpectedOutcomes, ExpectedOutcomes | None]:
    """Return the mean of two models' forecasts, and half of their difference, or None with fewer models."""
    if not forecasts:
        return ExpectedOutcomes(np.zeros(shape), np.zeros(shape)), None
    if len(forecasts) == 1:
        return forecasts[0], None
    first, second = forecasts
    mean = ExpectedOutcomes((first.gain_BC + second.gain_BC) / 2, (first.cost_BC + second.cost_BC) / 2)
    return mean, ExpectedOutcomes((first.gain_BC - second.gain_BC) / 2, (first.cost_BC - second.cost_BC) / 2)


def thinned(cost_X2: Floats, budget_X1: Floats) -> Floats:
    """Return the fraction of each arm's exposures that the budget pays for."""
    return np.where(cost_X2 > budget_X1, budget_X1 / cost_X2, 1.0)


def doubts(
    left_2BC: Sequence[Floats],
    half: ExpectedOutcomes,
    gain_2: Floats,
    cost_2: Floats,
    share_2: Floats,
    budget_1: Floats,
) -> tuple[Floats, float]:
    """Bound the error that wrong forecasts cause in the value of each arm, and in the difference between the arms.

    Args:
        left_2BC: Each arm's probability of the exposures whose value comes from forecasts; 0 for all others.
        half: Half of the signed difference between the two models' forecasts.
        gain_2: Gain per opportunity of each arm before the budget limits its exposures.
        share_2: Fraction of each arm's exposures that the budget pays for.
    """
    by_gain_2, by_cost_2 = (
        np.array([_by_channel(left_BC * half_BC) for left_BC in left_2BC]) for half_BC in (half.gain_BC, half.cost_BC)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        most_2, least_2 = (thinned(cost_2 + sign * by_cost_2, budget_1) for sign in (-1, 1))
        by_share_2 = np.abs(gain_2) * np.maximum(most_2 - share_2, share_2 - least_2)
    # The error is convex in the fractions of both arms, so it is largest at one of the four corners.
    challenger_BC, incumbent_BC = left_2BC
    apart = max(
        _by_channel((of_challenger * challenger_BC - of_incumbent * incumbent_BC) * half.gain_BC)
        for of_challenger, of_incumbent in product(*zip(least_2, most_2, strict=True))
    )
    return np.nan_to_num(most_2 * by_gain_2 + by_share_2), float(np.nan_to_num(apart + by_share_2.sum()))


def _by_channel(half_BC: Floats) -> float:
    """Return the absolute mean error of each channel, summed over the channels."""
    return float(np.abs(half_BC.sum(axis=0)).sum()) / len(half_BC)


def unsure_of(left_2BC: Sequence[Floats], forecasts: Sequence[ExpectedOutcomes], error_C: Floats) -> Floats:
    """Return how much the sampling error of the second model changes the values, as half-widths of 95 % intervals.

    The three half-widths are for the challenger, the incumbent, and their difference.

    Args:
        left_2BC: Each arm's probability, within the budget, of the exposures whose value comes from forecasts.
        error_C: Standard error of each channel's mean gain in the log.
    """
    models = forecasts[1].replicates if len(forecasts) > 1 else ()
    if not models:
        return np.zeros(3)
    challenger_BC, incumbent_BC = left_2BC
    parts_3BC = challenger_BC, incumbent_BC, challenger_BC - incumbent_BC
    said_K3 = np.array([[float((of_BC * gain_BC).sum()) for of_BC in parts_3BC] for gain_BC in models])
    folds = len(models)
    spread_3 = np.sqrt((folds - 1) * said_K3.var(axis=0)) / len(challenger_BC)
    of_means_3 = np.array([np.linalg.norm(of_BC.sum(axis=0) * error_C) for of_BC in parts_3BC]) / len(challenger_BC)
    widths_3 = np.hypot(spread_3 * stdtrit(folds - 1, 0.975), of_means_3 * ndtri(0.975))
    return np.asarray(np.nan_to_num(widths_3), dtype=np.float64)
