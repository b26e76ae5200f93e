"""Defines the two inputs of off-policy estimates: a log, and the choices that a policy would make at each logged row.

In a touchpoint log, each row is an exposure. In an opportunity log, each row is a decision: a channel was drawn and
then exposed or not, both with known probabilities.

Shapes: B rows, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtorl.arrays import Bools, Floats, Ints

MAX_EXCESS, MAX_EXCESS_ERRORS = 0.2, 4.0
"""Tolerance for a channel that has more rows than the logged probabilities predict, as a fraction and as a number of
standard errors. A larger excess means that the probabilities are wrong."""


@dataclass(frozen=True)
class PolicyOnLog:
    """The probabilities with which a policy would draw and expose each channel, at each row of a log."""

    probs_BC: Floats
    expose_BC: Bools | Floats  # probability of exposing each channel if it is drawn

    def __post_init__(self) -> None:
        if not ((self.probs_BC >= 0).all() and np.allclose(self.probs_BC.sum(axis=1), 1.0, atol=1e-6)):
            raise ValueError("probs_BC: each row must be probabilities that sum to one")
        if not ((self.expose_BC >= 0) & (self.expose_BC <= 1)).all():
            raise ValueError("expose_BC must lie in [0, 1]")

    @classmethod
    def always_exposing(cls, probs_BC: Floats) -> PolicyOnLog:
        """Create a policy that always exposes the channel that it draws."""
        return cls(probs_BC, np.ones(probs_BC.shape, dtype=np.bool_))

    @classmethod
    def recorded(cls, probs_BC: Floats, expose_BC: Floats) -> PolicyOnLog:
        """Create a policy from the probabilities in decision records, in which NaN counts as 0."""
        known_BC = np.nan_to_num(probs_BC)
        return cls(known_BC / known_BC.sum(axis=1, keepdims=True), np.clip(np.nan_to_num(expose_BC), 0.0, 1.0))


@dataclass(frozen=True)
class Exposure:
    """Whether each decision of a log led to an exposure, and how probable an exposure was."""

    exposed_B: Bools
    probability_B: Floats  # probability of exposing the drawn channel
    probs_BC: Floats  # probability of drawing and exposing each channel

    def __post_init__(self) -> None:
        if not ((self.probability_B >= 0) & (self.probability_B <= 1)).all():
            raise ValueError("probability_B must lie in [0, 1]")
        if not (self.probability_B[self.exposed_B] > 0).all():
            raise ValueError("probability_B: a decision was exposed that could not have been")


class LoggedRows:
    """The columns of a log from which off-policy estimates are computed."""

    def __init__(
        self,
        channel_B: ArrayLike,
        propensity_B: ArrayLike,
        gain_B: ArrayLike,
        cost_B: ArrayLike,
        users_B: ArrayLike,
        exposure: Exposure | None = None,
    ) -> None:
        """Store the columns of a log.

        Args:
            channel_B: Index of the logged or drawn channel.
            propensity_B: Probability with which the logging policy drew that channel.
            gain_B: Gain of each row; 0 without an exposure.
            cost_B: Cost of each row (currency units); 0 without an exposure.
            exposure: Exposures of the decisions. None means that every row is a touchpoint.

        Raises:
            ValueError: A column has impossible values.
        """
        self.channel_B: Ints = np.asarray(channel_B, dtype=np.int64)
        self.propensity_B: Floats = np.asarray(propensity_B, dtype=np.float64)
        self.gain_B: Floats = np.asarray(gain_B, dtype=np.float64)
        self.cost_B: Floats = np.asarray(cost_B, dtype=np.float64)
        self.users_B: NDArray[Any] = np.asarray(users_B)
        if len(self) == 0:
            raise ValueError("the log has no rows")
        if self.channel_B.min() < 0:
            raise ValueError("channel_B: a channel is not one of the data set's")
        for name in ("gain_B", "cost_B"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite")
        if not ((self.propensity_B > 0) & (self.propensity_B <= 1)).all():
            raise ValueError("propensity_B must lie in (0, 1]")
        self.exposure = exposure

    def __len__(self) -> int:
        return len(self.channel_B)

    @property
    def at_channel(self) -> tuple[Ints, Ints]:
        """An index that selects the logged channel of each row, as in `probs_BC[log.at_channel]`."""
        return np.arange(len(self)), self.channel_B

    def errors_of_means(self, channels: int) -> Floats:
        """Return the standard error (C,) of each channel's mean gain, with one standard deviation for all channels."""
        shown_B = slice(None) if self.exposure is None else self.exposure.exposed_B
        counts_C = np.bincount(self.channel_B[shown_B], minlength=channels)
        errors_C: Floats = self.gain_B[shown_B].std() / np.sqrt(np.maximum(counts_C, 1))
        return errors_C

    def overexposed_channel(self) -> tuple[int, int, float] | None:
        """Find a channel that has clearly more rows in a touchpoint log than its propensities imply.

        Returns the channel's index, its number of rows, and the expected number of rows, or None.
        """
        if self.exposure is not None:
            return None
        channels, rows = int(self.channel_B.max()) + 1, len(self)
        _, user_B = np.unique(self.users_B, return_inverse=True)
        rows_U = np.bincount(user_B)
        excess_C, error_C = np.empty(channels), np.empty(channels)
        for channel in range(channels):
            implied_B = np.where(self.channel_B == channel, 1.0 / self.propensity_B, 0.0)
            excess_C[channel] = implied_B.sum() / rows - 1.0
            # The errors of propensities can be correlated within a user. So use the larger variance: for independent
            # rows, or for independent users.
            squares = (implied_B**2).sum(), ((np.bincount(user_B, implied_B) - rows_U) ** 2).sum()
            error_C[channel] = np.sqrt(max(squares)) / rows
        worst = int((excess_C - MAX_EXCESS_ERRORS * error_C).argmax())
        if excess_C[worst] <= max(MAX_EXCESS, MAX_EXCESS_ERRORS * error_C[worst]):
            return None
        count = int((self.channel_B == worst).sum())
        return worst, count, count / (1.0 + float(excess_C[worst]))

    def weight(self, policy: PolicyOnLog) -> Floats:
        """Return the importance weight (B,) of the channel that was drawn in each row."""
        weight_B: Floats = policy.probs_BC[self.at_channel] / self.propensity_B
        return weight_B

    def exposure_weight(self, policy: PolicyOnLog | None = None) -> Floats:
        """Return the importance weight (B,) of the exposure in each row; 0 if the row has no exposure.

        If `policy` is None, the weights are for a policy that exposes every channel that the log drew.
        """
        weight_B = np.ones(len(self))
        if policy is not None:
            weight_B = self.weight(policy) * policy.expose_BC[self.at_channel]
        if self.exposure is None:
            return weight_B
        exposed_B, probability_B = self.exposure.exposed_B, self.exposure.probability_B
        return np.divide(weight_B, probability_B, out=np.zeros(len(self)), where=exposed_B)

    def impossible(self, policy: PolicyOnLog) -> Floats:
        """Return, for each row (B,), the policy's probability of exposures that the logging policy never makes."""
        if self.exposure is None:
            return np.zeros(len(self))
        possible_BC = self.exposure.probs_BC > 0
        probability_B: Floats = (policy.probs_BC * policy.expose_BC * ~possible_BC).sum(axis=1)
        return probability_B

    def weighable(self, policy: PolicyOnLog, most: float) -> Bools:
        """Return a mask (B, C) of the exposures whose importance weight is at most `most`.

        For touchpoints, all values are True.
        """
        if self.exposure is None:
            return np.ones(policy.probs_BC.shape, dtype=np.bool_)
        weight_BC = np.full(policy.probs_BC.shape, np.inf)
        exposing_BC = policy.probs_BC * policy.expose_BC
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is larger than `most`
            np.divide(exposing_BC, self.exposure.probs_BC, out=weight_BC, where=self.exposure.probs_BC > 0)
        weighable_BC: Bools = (weight_BC <= most) & (self.exposure.probs_BC > 0)
        return weighable_BC

    def expected_squares(self, exposing_BC: Floats, of_BC: Floats | float = 1.0) -> float:
        """Return the expected sum of squared importance weights times `of_BC` over the possible exposures of a log.

        Args:
            exposing_BC: A policy's probability of each exposure, or the difference between two policies.
        """
        of_BC = np.broadcast_to(of_BC, exposing_BC.shape)
        if self.exposure is None:
            weight_B = exposing_BC[self.at_channel] / self.propensity_B
            return float(weight_B**2 @ of_BC[self.at_channel])
        possible = self.exposure.probs_BC > 0
        with np.errstate(over="ignore"):
            return float((exposing_BC[possible] ** 2 / self.exposure.probs_BC[possible] * of_BC[possible]).sum())
