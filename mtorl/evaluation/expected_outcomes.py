"""Forecasts the outcomes of exposures that are rare in a log, and bounds the errors of these forecasts.

Half of the difference between the forecasts of two models is called *doubt*, and bounds the bias of an estimate. The
second model also has a sampling error (*unsure*), which a jackknife estimates.

For each test user, the second model is trained on other test users (cross-fitting: Chernozhukov et al. 2018,
arXiv:1608.00060). docs/evaluation.md gives the reasons for this method.

Shapes: L rows to learn from, B rows to forecast, C channels, K models of a jackknife, 2 arms (challenger, incumbent), 3
both arms and their difference, X a log and its resamples.
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
    """Forecast the outcomes of each user with a model that was trained on other users; None if there are too few users.

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
    """Return how much wrong forecasts can change the value of each arm, and the difference of the two values.

    Args:
        left_2BC: Each arm's probability of the exposures that forecasts value; 0 for all others.
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
    # The error is convex in both fractions, so it is largest at one of the four corners.
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
    """Return how much the values vary because the second model was trained on a limited number of users.

    The result has half-widths (3,) of 95 % intervals: for the challenger, the incumbent, and their difference.

    Args:
        left_2BC: Each arm's probability, within the budget, of the exposures that forecasts value.
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
