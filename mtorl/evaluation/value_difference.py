"""Estimates a challenger's value minus the incumbent's, under the same budget, from the log of another policy.

    log = LoggedRows(channel_B, propensity_B, gain_B, cost_B, users_B)
    value = value_difference(challenger, incumbent, log, budget_share=0.5, seed=0, [forecast])

Each exposure in the log has an importance weight w: the probability with which the policy draws and exposes the
channel, divided by the logging policy's probability of the same. Decisions without an exposure have no gain and no
cost. Let m be the policy's probability of any exposure at a row, g the logged gain, and q the gain that models expect
(zero without a model):

    G = mean(q(pi)) + mean(m) * sum(w (g - q)) / sum(w)     gain per opportunity
    W = the same for costs                                  cost per opportunity
    V = G * min(1, b / W)                                   gain per opportunity under a budget of b per opportunity

G is the doubly robust estimate with self-normalised weights (`policy_value.py`). If the logged probabilities are
correct, w and m have the same expected value, so the ratio of their means is close to 1. V makes the policies (arms)
comparable: both get the same budget b, and an arm that would spend more loses a random part of its exposures. The
intervals of both arms use the same resamples of users.

Exposures with a large weight are noisy, so forecasts replace them (SWITCH: Wang, Agarwal & Dudík 2017,
arXiv:1612.01205). The forecast is the mean of two models (`expected_outcomes`). Half of the difference between the
models bounds the error of the forecasts, and widens the interval at both ends. Several limits for the weight are tried,
and the one with the narrowest interval is used: a higher limit leaves less to forecasts, but gives more noise. A log
looks less noisy than it is if rare exposures or gains happened not to occur. So an interval is at least as wide as if
the variance of a gain were proportional to its mean.

The estimate assumes that users have the history in the log, although a policy with other choices would change it.

Shapes: B rows, C channels, U users, R resamples, X the log and its resamples (1 + R), S sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from mtorl.arrays import Floats
from mtorl.evaluation.expected_outcomes import ExpectedOutcomes, doubts, mean_and_doubt, thinned, unsure_of
from mtorl.evaluation.importance_weights import effective_size
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples, interval

ARMS = ("challenger", "incumbent")

LARGEST_WEIGHTS = (3.0, 5.0, 10.0, 20.0, 50.0, math.inf)
"""Bounds of the importance weight that are tried. For exposures whose weight exceeds the bound, forecasts replace the
logged outcomes."""

# Forecasts may value at most this share of an arm's exposures.
MAX_FORECAST = 0.25


class ValueDifference(TypedDict):
    """Values of the challenger and the incumbent under the same budget, and the difference between the values."""

    challenger: float  # gain per opportunity
    challenger_ci: list[float]
    incumbent: float
    incumbent_ci: list[float]
    difference: float  # challenger - incumbent
    difference_ci: list[float]
    doubt: float  # largest error that wrong forecasts can cause
    largest_weight: float | None  # forecasts value exposures above this weight
    ess: dict[str, float]  # effective sample size, in rows
    ess_share: dict[str, float]
    overlap: dict[str, float]
    mean_weight: dict[str, float]  # 1 if the logged probabilities are correct
    mean_weight_ci: dict[str, list[float]]
    impossible: dict[str, float]  # fraction of exposures that the logging policy never makes
    forecast: dict[str, float]  # fraction of exposures that forecasts value
    gain_per_opportunity: dict[str, float]  # before the budget limits it
    cost_per_opportunity: dict[str, float]  # before the budget limits it
    budget_per_opportunity: float
    rows: int
    users: int


def value_difference(
    challenger: PolicyOnLog,
    incumbent: PolicyOnLog,
    log: LoggedRows,
    budget_share: float | None,
    seed: int,
    forecasts: Sequence[ExpectedOutcomes] = (),
    resamples: int = 1000,
) -> ValueDifference:
    """Estimate the values of the challenger and the incumbent from the same log and under the same budget.

    Args:
        budget_share: Budget of each arm, as a fraction of the cost of always exposing. None means the incumbent's
            spend.
        forecasts: The forecasts of the challenger's model and of a second model, both trained on other users.
    """
    policies = dict(zip(ARMS, (challenger, incumbent), strict=True))
    expected, doubt = mean_and_doubt(forecasts, challenger.probs_BC.shape)
    cost_B, as_logged_B = expected.cost_BC[log.at_channel], log.exposure_weight()
    columns = [np.ones(len(log)), as_logged_B, as_logged_B * (log.cost_B - cost_B), cost_B]
    readings = []
    for largest in LARGEST_WEIGHTS if doubt is not None and log.exposure is not None else (math.inf,):
        arms = {arm: _Arm.of(policy, log, expected, largest) for arm, policy in policies.items()}
        if largest == math.inf or max(arm.forecast for arm in arms.values()) <= MAX_FORECAST:
            readings.append((largest, arms))
            columns += [column for arm in arms.values() for column in arm.columns]
    users = UserResamples(log.users_B, resamples, seed)
    sums_S, sums_RS = users.sums(columns)
    sums_XS = np.vstack([sums_S, sums_RS])
    of_log_X4, *of_readings = np.split(sums_XS, range(_OF_LOG, len(columns), 2 * _OF_ARM), axis=1)
    found = [
        _Values.of(of_log_X4, of_arms, budget_share, [arm.left_BC for arm in arms.values()], doubt)
        for of_arms, (_, arms) in zip(of_readings, readings, strict=True)
    ]
    differences = [one["challenger"].weighed_BC - one["incumbent"].weighed_BC for _, one in readings]
    unsure, errors_C = [], log.errors_of_means(expected.gain_BC.shape[1])
    for values, (_, arms) in zip(found, readings, strict=True):
        left_2BC = [share * arm.left_BC for share, arm in zip(values.share_2, arms.values(), strict=True)]
        unsure.append(unsure_of(left_2BC, forecasts, errors_C))
    squares = [log.expected_squares(one_BC) for one_BC in differences]
    best = 0 if len(found) == 1 else _narrowest(found, squares, [float(one_3[2]) for one_3 in unsure])
    (largest, arms), values = readings[best], found[best]
    unsure_3 = unsure[best].tolist()
    noise = _Noise(log, expected.gain_BC if forecasts else None)
    noises = {arm: noise.of(arms[arm].weighed_BC, float(values.share_2[i])) for i, arm in enumerate(ARMS)}
    noise_of_difference = noise.of(differences[best], float(values.share_2.max()))

    ess, overlap, mean_weight, mean_weight_ci = {}, {}, {}, {}
    for i, (arm, one) in enumerate(arms.items()):
        exposing = float((policies[arm].probs_BC * policies[arm].expose_BC).sum())
        # The mean weight tests the logged probabilities, so it includes all exposures.
        weight_X, exposing_X = (of_readings[-1][:, i * _OF_ARM + place] for place in (_WEIGHT, _EXPOSING))
        mean_weight[arm], mean_weight_ci[arm] = _mean_weight(log, readings[-1][1][arm], weight_X, exposing_X)
        ess[arm] = effective_size(one.weight_B) if exposing > 0 else float(len(log))
        overlap[arm] = float(np.minimum(one.weight_B, 1.0).sum()) / exposing if exposing > 0 else 1.0
    return ValueDifference(
        challenger=float(values.value_X2[0, 0]),
        challenger_ci=_widened(values.value_X2[:, 0], float(values.doubt_2[0]), noises["challenger"], unsure_3[0]),
        incumbent=float(values.value_X2[0, 1]),
        incumbent_ci=_widened(values.value_X2[:, 1], float(values.doubt_2[1]), noises["incumbent"], unsure_3[1]),
        difference=float(values.value_X2[0, 0] - values.value_X2[0, 1]),
        difference_ci=_widened(
            values.value_X2[:, 0] - values.value_X2[:, 1], values.doubt_of_difference, noise_of_difference, unsure_3[2]
        ),
        doubt=values.doubt_of_difference,
        largest_weight=None if largest == math.inf else largest,
        ess=ess,
        ess_share={arm: ess[arm] / len(log) for arm in ARMS},
        overlap=overlap,
        mean_weight=mean_weight,
        mean_weight_ci=mean_weight_ci,
        impossible={arm: arms[arm].impossible for arm in ARMS},
        forecast={arm: arms[arm].forecast for arm in ARMS},
        gain_per_opportunity=dict(zip(ARMS, values.gain_2.tolist(), strict=True)),
        cost_per_opportunity=dict(zip(ARMS, values.cost_2.tolist(), strict=True)),
        budget_per_opportunity=values.budget,
        rows=len(log),
        users=users.users,
    )


def _mean_weight(log: LoggedRows, arm: _Arm, weight_X: Floats, exposing_X: Floats) -> tuple[float, list[float]]:
    """Return an arm's mean importance weight divided by its expected value, with its 95 % interval."""
    if not exposing_X[0] > 0:  # a policy that never exposes has no weight to check
        return 1.0, [1.0, 1.0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_X = weight_X / exposing_X
    variance = log.expected_squares(arm.weighed_BC) - float((arm.weighed_BC.sum(axis=1) ** 2).sum())
    spread = math.sqrt(max(variance, 0.0)) / float(exposing_X[0])
    return float(ratio_X[0]), _widened(ratio_X, 0.0, spread)


class _Noise:
    """Computes how much an estimate would vary if the log were recorded many times."""

    def __init__(self, log: LoggedRows, gain_BC: Floats | None) -> None:
        shown_B = log.gain_B[log.exposure.exposed_B] if log.exposure is not None else log.gain_B
        mean = float(shown_B.mean()) if len(shown_B) else 0.0
        self._log = log
        self._dispersion = float(shown_B.var()) / mean if mean > 0 else 1.0
        self._gain_BC: Floats | float = max(mean, 0.0) if gain_BC is None else np.maximum(gain_BC, 0.0)

    def of(self, weighed_BC: Floats, share: float) -> float:
        """Return the standard deviation of an arm's value, or of the difference between both arms.

        Args:
            weighed_BC: The arm's probability of each exposure; 0 where the value comes from forecasts.
        """
        squares = self._log.expected_squares(weighed_BC, self._gain_BC) * self._dispersion
        return share * math.sqrt(max(squares, 0.0)) / len(self._log)


_OF_LOG, _OF_ARM = 4, 6
# Indices of two of an arm's sums.
_WEIGHT, _EXPOSING = 0, 3


@dataclass(frozen=True)
class _Arm:
    """One of the two policies on the log, if forecasts value all exposures above a weight bound."""

    weight_B: Floats
    weighed_BC: Floats  # probability of each exposure within the weight bound, else 0
    left_BC: Floats  # probability of each exposure that only forecasts value, else 0
    forecast: float
    impossible: float
    columns: tuple[Floats, ...]

    @classmethod
    def of(cls, policy: PolicyOnLog, log: LoggedRows, expected: ExpectedOutcomes, largest: float) -> _Arm:
        exposing_BC = policy.probs_BC * policy.expose_BC
        known_BC = log.weighable(policy, largest)
        weighed_BC, left_BC = exposing_BC * known_BC, exposing_BC * ~known_BC
        weight_B = log.exposure_weight(policy) * known_BC[log.at_channel]
        columns = (
            weight_B,
            weight_B * (log.gain_B - expected.gain_BC[log.at_channel]),
            weight_B * (log.cost_B - expected.cost_BC[log.at_channel]),
            weighed_BC.sum(axis=1),
            (exposing_BC * expected.gain_BC).sum(axis=1),
            (exposing_BC * expected.cost_BC).sum(axis=1),
        )
        every = max(float(exposing_BC.sum()), 1e-300)
        impossible = float(log.impossible(policy).sum())
        return cls(weight_B, weighed_BC, left_BC, float(left_BC.sum()) / every, impossible / every, columns)


@dataclass(frozen=True)
class _Values:
    """The values of both arms. In fields with X in their name, entry 0 is for the log, the others for its resamples."""

    value_X2: Floats
    doubt_2: Floats
    doubt_of_difference: float
    share_2: Floats  # fraction of each arm's exposures that the budget pays for
    gain_2: Floats
    cost_2: Floats
    budget: float

    @classmethod
    def of(
        cls,
        of_log_X4: Floats,
        of_arms_X12: Floats,
        budget_share: float | None,
        left_2BC: Sequence[Floats],
        doubt: ExpectedOutcomes | None,
    ) -> _Values:
        rows_X1, exposures_X1, cost_X1, planned_cost_X1 = np.split(of_log_X4, _OF_LOG, axis=1)
        arms_X26 = of_arms_X12.reshape(len(of_arms_X12), len(ARMS), _OF_ARM)
        weight_X2, gain_X2, cost_X2, exposing_X2, planned_gain_X2, planned_cost_X2 = np.moveaxis(arms_X26, 2, 0)
        with np.errstate(divide="ignore", invalid="ignore"):  # the estimate is NaN if all weights are 0
            per_weight_X2 = np.where(exposing_X2 > 0, exposing_X2 / weight_X2, 0.0)
            gain_X2 = (planned_gain_X2 + np.where(exposing_X2 > 0, per_weight_X2 * gain_X2, 0.0)) / rows_X1
            cost_X2 = (planned_cost_X2 + np.where(exposing_X2 > 0, per_weight_X2 * cost_X2, 0.0)) / rows_X1
            # Cost per opportunity if every drawn channel were exposed.
            every_X1 = planned_cost_X1 / rows_X1 + cost_X1 / exposures_X1
            budget_X1 = cost_X2[:, 1:] if budget_share is None else budget_share * every_X1
            share_X2 = thinned(cost_X2, budget_X1)
        own = gain_X2[0], cost_X2[0], share_X2[0], budget_X1[0]
        doubt_2, of_difference = (np.zeros(2), 0.0) if doubt is None else doubts(left_2BC, doubt, *own)
        return cls(
            gain_X2 * share_X2, doubt_2, of_difference, share_X2[0], gain_X2[0], cost_X2[0], float(budget_X1[0, 0])
        )


_Z = 1.96


def _narrowest(found: Sequence[_Values], squares: Sequence[float], unsure: Sequence[float]) -> int:
    """Return the index of the weight bound with the narrowest 95 % interval for the difference."""
    draws_R = found[0].value_X2[1:, 0] - found[0].value_X2[1:, 1]
    spread = float(np.nanstd(draws_R)) if np.isfinite(draws_R).any() else 0.0
    widths = []
    for one, square, of_forecasts in zip(found, squares, unsure, strict=True):
        noise = spread * math.sqrt(square / squares[0]) if squares[0] > 0 else 0.0
        widths.append(math.hypot(_Z * noise, of_forecasts) + float(one.doubt_of_difference))
    return int(np.argmin(widths))


def _widened(value_X: Floats, doubt: float, noise: float, unsure: float = 0.0) -> list[float]:
    """Return the 95 % interval of an estimate, widened by the possible errors of its forecasts."""
    edges = interval(value_X[1:])
    if edges is None:
        return [math.nan, math.nan]
    low, high = min(edges[0], value_X[0] - _Z * noise), max(edges[1], value_X[0] + _Z * noise)
    below, above = (math.hypot(edge - value_X[0], unsure) + doubt for edge in (low, high))
    return [float(value_X[0] - below), float(value_X[0] + above)]
