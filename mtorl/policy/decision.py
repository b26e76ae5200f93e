"""The decision rule: turns the network's predictions into a channel, its propensity, and whether to expose it.

It uses only numpy and has no state. Training, off-policy evaluation, the simulator and every server run this code.

    utility      = gain - price * cost + added                       price: the Lagrange multiplier of the budget
    added        = later gain - price * later cost                   effect of an exposure on later opportunities
    tilted       ∝ action probability * exp(beta * utility / scale)  beta: advantage weight
    probability  = (1 - epsilon) * tilted + epsilon / candidates     epsilon: exploration
    channel      = inverse of the cumulative probability at u        u in [0, 1) is an input, so that replays are exact
    expose       = utility of that channel >= 0

The tilt is the closed-form solution of "maximise expected utility minus the KL divergence from the logging policy".
With beta = 0, the rule follows the logging policy (as learned by the action head); with a large beta, it takes the best
utility. ``scale`` gives beta the same meaning on every data set. It is the typical spread of utility *between the
channels of one decision* (:func:`utility_scale`), because spread between users cancels in the softmax of a row.

``added`` is 0 for a model without `mtorl.network.future_value`. If an exposure reduces later costs, its total cost is
still at least `LEAST_COST` times its own cost. So at no price do savings alone pay for an exposure.

The mixture keeps each candidate's probability at epsilon / candidates or above. This bounds the importance weights of
later off-policy estimates.

Shapes: B batch, C channels.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from mtorl.arrays import Bools, Floats, Ints

# An exposure may reduce the cost of later exposures. Even then, its total cost counts as at least this fraction of its
# own cost.
LEAST_COST = 0.5


@pydantic_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class PolicyParams:
    """Parameters of the decision rule. The model artifact stores them as ``policy.json``."""

    # beta: how strongly the choice prefers channels with a higher utility. The log-odds of a channel increase by beta
    # if its utility increases by one ``utility_scale``. With 0, the choice follows the action head alone.
    advantage_weight: Annotated[float, Field(ge=0)] = 0.0
    # epsilon: share of the decisions whose channel is drawn uniformly from the candidates.
    exploration: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Gain that one currency unit must earn, so that an exposure is worth its cost.
    price: Annotated[float, Field(ge=0)] = 0.0
    # Typical spread of utility between the channels of one decision, computed from held-out data.
    utility_scale: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class Decision:
    """The decisions for several rows, each with the figures on which it is based.

    Fields with ``_B`` have one value per row, for the chosen channel. Fields with ``_BC`` have one for every channel.
    """

    channel_B: Ints
    propensity_B: Floats
    expected_gain_B: Floats
    expected_cost_B: Floats
    utility_B: Floats
    expose_B: Bools
    probs_BC: Floats
    gain_BC: Floats
    cost_BC: Floats
    expose_BC: Bools


class Forecast(NamedTuple):
    """A model's forecast of gain and cost for each channel, with one row per decision."""

    # Output of the action head. Only the differences between the channels of a row matter.
    logits_BC: ArrayLike
    gain_BC: ArrayLike
    """Expected gain of an exposure, computed from the reward head by ``Encoder.unreward``. A negative value counts as
    0."""
    cost_BC: ArrayLike  # expected cost of an exposure, currency units, at least 0
    # Effect of an exposure on the user's later gain and later cost; None if the model does not forecast it.
    future_BC2: ArrayLike | None = None

    def rows(self, part: slice | Bools) -> "Forecast":
        """Return the forecast for some of the decisions."""
        return Forecast(*(None if values is None else np.asarray(values)[part] for values in self))  # type: ignore[arg-type]


def decide(
    forecast: Forecast,
    params: PolicyParams,
    u_B: ArrayLike,
    candidates_BC: ArrayLike | None = None,
    price_BC: ArrayLike | None = None,
) -> Decision:
    """Choose a channel for each row, and decide whether to expose it.

    Args:
        u_B: Random number in [0, 1) for each row, which selects the channel.
        candidates_BC: Mask of the channels that may be chosen; None for all.
        price_BC: Price that replaces ``params.price``: one number, one per row (B, 1), or one per row and channel (B,
            C).
    """
    utility_BC, gain, cost = _utility(forecast, params.price if price_BC is None else price_BC)
    probs_BC = choice_probabilities(forecast.logits_BC, utility_BC, params, candidates_BC)
    u: Floats = np.asarray(u_B, dtype=np.float64)
    rows = len(probs_BC)
    if u.shape != (rows,):
        raise ValueError(f"u_B must have shape ({rows},), got {u.shape}")
    if not ((u >= 0) & (u < 1)).all():
        raise ValueError("u_B must lie in [0, 1)")

    cumulative_BC = probs_BC.cumsum(axis=1)
    # Because of rounding, the last column may differ from 1. Divide by it, so that it is exactly 1 and exceeds every u.
    channel_B = (u[:, None] >= cumulative_BC / cumulative_BC[:, -1:]).sum(axis=1)
    chosen, expose_BC = (np.arange(rows), channel_B), utility_BC >= 0
    return Decision(
        channel_B=channel_B,
        propensity_B=probs_BC[chosen],
        expected_gain_B=gain[chosen],
        expected_cost_B=cost[chosen],
        utility_B=utility_BC[chosen],
        expose_B=expose_BC[chosen],
        probs_BC=probs_BC,
        gain_BC=gain,
        cost_BC=cost,
        expose_BC=expose_BC,
    )


def action_probabilities(
    forecast: Forecast, params: PolicyParams, price_BC: ArrayLike | None = None
) -> tuple[Floats, Bools]:
    """Return the probability of choosing each channel, and whether the channel would be exposed if chosen.

    :func:`decide` draws the channel with these probabilities.
    """
    utility_BC = expected_utility(forecast, params.price if price_BC is None else price_BC)
    return choice_probabilities(forecast.logits_BC, utility_BC, params), utility_BC >= 0


def utility_scale(forecast: Forecast) -> float:
    """Return how much utility varies between the channels of one decision, as a standard deviation at price 0.

    The exponent of `tilted` is divided by this scale. If all utilities are equal, the scale is 1.0, so that nothing is
    divided by zero.
    """
    utility_BC = expected_utility(forecast, 0.0)
    scale = float(np.sqrt(np.mean(np.var(utility_BC, axis=1)))) if utility_BC.size else 0.0
    return scale if scale > 1e-12 else 1.0


def choice_probabilities(
    logits_BC: ArrayLike, utility_BC: Floats, params: PolicyParams, candidates_BC: ArrayLike | None = None
) -> Floats:
    """Return the probability of choosing each channel, including uniform exploration.

    The module's docstring has the formulas (`tilted` and `probability`).
    """
    logits: Floats = np.asarray(logits_BC, dtype=np.float64)
    if logits.shape != utility_BC.shape:
        raise ValueError(f"logits_BC must have shape {utility_BC.shape}, got {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError("logits_BC must be finite")
    score_BC = logits + (params.advantage_weight / params.utility_scale) * utility_BC
    uniform: float | Floats
    if candidates_BC is None:
        uniform = 1.0 / score_BC.shape[1]
    else:
        allowed_BC = _allowed(candidates_BC, score_BC.shape)
        score_BC = np.where(allowed_BC, score_BC, -np.inf)
        uniform = allowed_BC / allowed_BC.sum(axis=1, keepdims=True)
    # The logits need no normalisation, because adding a constant to a row does not change its softmax.
    tilted_BC = np.exp(score_BC - score_BC.max(axis=1, keepdims=True))
    tilted_BC /= tilted_BC.sum(axis=1, keepdims=True)
    probs_BC: Floats = (1.0 - params.exploration) * tilted_BC + params.exploration * uniform
    return probs_BC


def expected_utility(forecast: Forecast, price: ArrayLike) -> Floats:
    """Return the utility of an exposure in each channel. An ad is exposed if its utility is at least 0.

    The module's docstring has the formula.
    """
    return _utility(forecast, price)[0]


def _utility(forecast: Forecast, price: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Check a forecast, and return the utility, the gain and the cost of an exposure in each channel.

    Gain and cost do not include the effect on later opportunities; utility does.
    """
    gain: Floats = np.asarray(forecast.gain_BC, dtype=np.float64)
    cost: Floats = np.asarray(forecast.cost_BC, dtype=np.float64)
    if gain.ndim != 2 or gain.shape[1] == 0:
        raise ValueError(f"gain_BC must have shape (rows, channels), got {gain.shape}")
    if cost.shape != gain.shape:
        raise ValueError(f"cost_BC must have shape {gain.shape}, got {cost.shape}")
    if not np.isfinite(gain).all():
        raise ValueError("gain_BC must be finite")
    if not (cost.min(initial=0.0) >= 0 and cost.max(initial=0.0) < np.inf):  # NaN fails both comparisons
        raise ValueError("cost_BC must be finite and >= 0")
    gain = np.maximum(gain, 0.0)
    in_all, paid = gain, cost
    if forecast.future_BC2 is not None:
        future: Floats = np.asarray(forecast.future_BC2, dtype=np.float64)
        if future.shape != (*gain.shape, 2):
            raise ValueError(f"future_BC2 must have shape {(*gain.shape, 2)}, got {future.shape}")
        in_all, paid = gain + future[..., 0], np.maximum(cost + future[..., 1], LEAST_COST * cost)
        if not (np.isfinite(in_all).all() and np.isfinite(paid).all()):
            raise ValueError("future_BC2 must be finite")
    utility: Floats = in_all - np.asarray(price, dtype=np.float64) * paid
    if utility.shape != gain.shape:
        raise ValueError(f"price_BC must broadcast to {gain.shape}")
    if not np.isfinite(utility).all():
        raise ValueError("price_BC must be finite")
    return utility, gain, cost


def _allowed(candidates_BC: ArrayLike, shape: tuple[int, ...]) -> Bools:
    allowed_BC: Bools = np.asarray(candidates_BC, dtype=bool)
    if allowed_BC.shape != shape:
        raise ValueError(f"candidates_BC must have shape {shape}, got {allowed_BC.shape}")
    some_B = allowed_BC.any(axis=1)
    if not some_B.all():
        raise ValueError(f"candidates_BC: row {int(np.argmin(some_B))} has no candidate")
    return allowed_BC
