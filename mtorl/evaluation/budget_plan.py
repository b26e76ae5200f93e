"""Plans a budget: its expected gain, its split over campaigns and channels, and the gain of a larger budget.

    plan = budget_plan(Replay.of(rows, model, explore), rows, budget=500.0, traffic=Traffic.of(by_day, days=7))
    plan.chosen.gain, plan.chosen.gain_ci, plan.chosen.marginal        # marginal: gain of one more currency unit
    plan.more.gain, plan.added, plan.added_ci                          # gain of a budget that is 20 % larger

If one price applies to all campaigns and channels, moving budget between them can't increase the gain (Lagrange
duality). Each price leads to one spend, one gain and one split, so a series of prices gives the curve of gain by spend.
The users' journeys are replayed for each price of the series (`replay.py`), and the curve is interpolated between two
prices. The marginal gain is the slope of the curve. If the forecasts were correct, the slope would equal the price.

The 95 % interval of a point covers the gain that will be observed in the period. The interval includes three kinds of
variation: users are resampled, and the forecasts are calibrated again for each resample; the number of decisions varies
as it does between the days of the log; and the outcomes of the same decisions vary as in the log.

Shapes: B decisions, K prices, R resamples, G campaigns, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri

from mtorl.arrays import Floats, Ints
from mtorl.evaluation import messages
from mtorl.evaluation.replay import Played, Replay
from mtorl.evaluation.resamples import UserResamples, interval
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError

SHARES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Fractions of the budget for which the curve of gain by spend is computed. The curve also has the current spend and
the budget MORE, and is interpolated between these points."""
MORE = 1.2
NOTHING_BOUGHT = 2.0**40  # a price at which only exploration spends
_RESAMPLES = 400
# These quantiles replace random draws, because their mean is exactly 0 and does not shift a forecast.
_NORMAL_R = ndtri((np.arange(_RESAMPLES) + 0.5) / _RESAMPLES)
_NEAR = 0.05  # the slope at a spend is measured between 95 % and 105 % of it
_LEAST = 1e-12  # smallest divisor, because a total can be 0
_HALVINGS = 40


@dataclass(frozen=True)
class Traffic:
    """Expected number of decisions in the planned period."""

    decisions: float
    spread: float  # standard deviation

    @classmethod
    def of(cls, by_day: Sequence[float], days: float) -> Traffic:
        """Forecast the number of decisions in the next `days` days from the daily mean, without trends and weekdays.

        Args:
            by_day: Number of decisions on each whole day of a log.
        """
        seen = np.asarray(by_day, dtype=np.float64)
        spread = float(seen.std(ddof=1)) if len(seen) > 1 else float(np.sqrt(seen.mean()))
        return cls(days * float(seen.mean()), spread * float(np.sqrt(days + days**2 / len(seen))))


@dataclass(frozen=True)
class Point:
    """A spend in the planned period, with the gain that it is expected to bring."""

    spend: float  # currency units
    gain: float
    gain_ci: list[float]  # 95 % interval of the gain that will be observed in the period
    price: float
    marginal: float  # gain of one more currency unit


@dataclass(frozen=True)
class Part:
    """The planned spend and gain of one channel in one campaign.

    `today_spend` is the logged spend, scaled to the planned period.
    """

    campaign: str
    channel: str
    today_spend: float
    spend: float
    gain: float


@dataclass(frozen=True)
class BudgetPlan:
    """The plan for a budget: its expected gain, and its split over campaigns and channels."""

    traffic: Traffic
    today: Point  # logged spend and gain, scaled to the period
    # Forecast gain of the logged spend.
    today_planned: float
    chosen: Point
    more: Point  # if the budget is MORE (1.2) times as large
    added: float  # extra gain of the larger budget
    added_ci: list[float]
    curve: list[Point]
    split: list[Part]
    left_over: float  # budget that stays unspent


@dataclass(frozen=True)
class Curve:
    """The expected gain per decision as a function of the spend per decision."""

    spend_K: Floats  # ascending
    gain_K: Floats
    price_K: Floats

    @classmethod
    def through(cls, spend_K: Floats, gain_K: Floats, price_K: Floats) -> Curve:
        """Create a curve whose gain never falls as the spend rises, although the replays are noisy."""
        order = np.argsort(spend_K, kind="stable")
        spend_K, first = np.unique(spend_K[order], return_index=True)
        return cls(spend_K, np.maximum.accumulate(gain_K[order])[first], np.minimum.accumulate(price_K[order])[first])

    def gain(self, spend: float) -> float:
        """Return the expected gain of a spend, which is proportional to the spend below the first point."""
        low, high = float(self.spend_K[0]), float(self.spend_K[-1])
        if spend <= low:
            return float(self.gain_K[0] * spend / low) if low > 0 else float(self.gain_K[0])
        if spend >= high:
            return float(self.gain_K[-1] + (spend - high) * self.price_K[-1])
        return float(PchipInterpolator(self.spend_K, self.gain_K)(spend))

    def price(self, spend: float) -> float:
        """Return the price that leads to a spend."""
        return float(np.interp(spend, self.spend_K, self.price_K))


def budget_plan(replay: Replay, rows: pd.DataFrame, budget: float, traffic: Traffic) -> BudgetPlan:
    """Plan how a budget is spent in a period, and forecast its gain.

    Args:
        rows: The decisions from which the replay was created.
        budget: Currency units for the whole period.

    Raises:
        InputError: The budget is not positive, exploration alone spends it, no exposure in the log has a gain, or an
            exposure has a negative gain.
    """
    if not 0 < budget < np.inf:
        raise InputError(f"budget must be a positive number, got {budget}")
    if (replay.gain_B < 0).any() or not replay.gain_B.any():
        raise InputError("the log's exposures earned nothing, or some lost: there is no calibrated gain to plan with")
    today_spend = float(rows["cost"].sum()) / len(rows) * traffic.decisions
    # The policy spends most at price 0, so the curve ends there.
    reached = min(budget, spend_of(replay, 0.0) * traffic.decisions)
    budgets = sorted({*(share * reached for share in SHARES), budget, MORE * budget, today_spend})
    explored = spend_of(replay, NOTHING_BOUGHT) * traffic.decisions
    if budget <= explored:
        raise InputError(messages.EXPLORATION_SPENDS(explored=explored))
    curves = Curves.of(replay, [one / traffic.decisions for one in budgets if one > explored], traffic)
    today_gain = float(replay.gain_B.mean()) * traffic.decisions
    most = float(curves.whole.spend_K[-1]) * traffic.decisions if curves.whole.price_K[-1] == 0 else np.inf
    chosen, more = curves.point(min(budget, most)), curves.point(min(MORE * budget, most))
    added_R = curves.gains_R(more.spend) - curves.gains_R(chosen.spend)
    today = curves.point(today_spend)
    return BudgetPlan(
        traffic=traffic,
        today=Point(today_spend, today_gain, today.gain_ci, today.price, today.marginal),
        today_planned=today.gain,
        chosen=chosen,
        more=more,
        added=more.gain - chosen.gain,
        added_ci=interval(added_R) or [np.nan, np.nan],
        curve=[curves.point(one) for one in sorted({*budgets, chosen.spend}) if explored < one <= most],
        split=_split(replay, rows, curves, chosen),
        left_over=budget - chosen.spend,
    )


@dataclass(frozen=True)
class Curves:
    """The curves of expected gain by spend, for all users and for each resample of the users."""

    played: list[Played]
    prices: list[float]
    whole: Curve
    resampled: list[Curve]
    decisions_R: Floats
    chance_R: Floats  # (observed gain - expected gain) / sqrt(expected gain)
    traffic: Traffic

    @classmethod
    def of(cls, replay: Replay, spends: Sequence[float], traffic: Traffic) -> Curves:
        """Replay the users' journeys once for each spend (currency units per decision), and create the curves."""
        prices = sorted({price_of(replay, spend) for spend in spends}, reverse=True)
        played = []
        for turn, price in enumerate(prices):
            progress.report(turn, len(prices), f"price {price:.4g}")
            played.append(replay.at(price))
        users = UserResamples(replay.user_B, _RESAMPLES, replay.seed)
        gain_U = np.bincount(users.code_B, replay.gain_B, users.users)
        # variance of the total gain, divided by the total gain
        dispersion = float(gain_U.var() * users.users / gain_U.sum())
        random = np.random.default_rng([replay.seed, 1])

        def curve(weight_B: Floats) -> Curve:
            response, total = replay.refitted(weight_B), weight_B.sum()
            gain_K, spend_K = (
                np.array([weight_B @ (one.exposing_BC * of(one)).sum(axis=1) for one in played]) / total
                for of in (lambda one: response.gain(one.forecast_BC), lambda one: one.cost_BC)
            )
            return Curve.through(spend_K, gain_K, np.array(prices))

        return cls(
            played=played,
            prices=prices,
            whole=curve(np.ones(len(replay.user_B))),
            resampled=[curve(counts_U[users.code_B]) for counts_U in users],
            decisions_R=np.maximum(traffic.decisions + traffic.spread * random.permutation(_NORMAL_R), 1.0),
            chance_R=np.sqrt(dispersion) * random.permutation(_NORMAL_R),
            traffic=traffic,
        )

    def gains_R(self, spend: float) -> Floats:
        """Return the expected gain (R,) of a spend, for each resample of the users."""
        pairs = zip(self.resampled, self.decisions_R.tolist(), strict=True)
        return np.array([decisions * curve.gain(spend / decisions) for curve, decisions in pairs])

    def point(self, spend: float) -> Point:
        """Return the expected gain of a spend, with its interval, price and marginal gain."""
        each = spend / self.traffic.decisions
        gain_R = self.gains_R(spend)
        counted_R = np.maximum(gain_R + self.chance_R * np.sqrt(np.maximum(gain_R, 0.0)), 0.0)
        gain = self.traffic.decisions * self.whole.gain(each)
        marginal = (self.whole.gain((1 + _NEAR) * each) - self.whole.gain((1 - _NEAR) * each)) / (2 * _NEAR * each)
        return Point(spend, gain, interval(counted_R) or [np.nan, np.nan], self.whole.price(each), marginal)


def spend_of(replay: Replay, price: float) -> float:
    """Return the policy's expected spend per decision at a price, with the users' logged histories."""
    made = replay.as_logged(price)
    return float((made.exposing_BC * made.cost_BC).sum(axis=1).mean())


def price_of(replay: Replay, spend: float) -> float:
    """Return the price at which the policy is expected to spend `spend` per decision, or 0 if it never spends more."""
    low, high = 0.0, 1.0
    if spend_of(replay, low) <= spend:
        return 0.0
    while spend_of(replay, high) > spend and high < NOTHING_BOUGHT:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if spend_of(replay, middle) > spend else (low, middle)
    return high


def _split(replay: Replay, rows: pd.DataFrame, curves: Curves, chosen: Point) -> list[Part]:
    campaign_B, campaigns = pd.factorize(rows["campaign_id"], sort=True)
    channels = replay.model.spec.channels
    decisions, each = curves.traffic.decisions, chosen.spend / curves.traffic.decisions

    def by_part(of_BC: Floats) -> Floats:
        sums_GC = [np.bincount(campaign_B, of_BC[:, c], len(campaigns)) for c in range(len(channels))]
        return np.stack(sums_GC, axis=1) / len(rows)

    spends = np.array([by_part(one.exposing_BC * one.cost_BC) for one in curves.played])
    gains = np.array([by_part(one.exposing_BC * replay.response.gain(one.forecast_BC)) for one in curves.played])
    total_K = spends.sum(axis=(1, 2))
    order: Ints = np.argsort(total_K)
    at = float(np.interp(each, total_K[order], np.arange(len(order))))
    low, share = int(at), at - int(at)
    high = min(low + 1, len(order) - 1)
    spend_GC, gain_GC = ((1 - share) * of[order[low]] + share * of[order[high]] for of in (spends, gains))
    # Scale the interpolated parts, so that their sums equal the chosen point's spend and gain.
    spend_GC *= chosen.spend / max(spend_GC.sum(), _LEAST)
    gain_GC *= chosen.gain / max(gain_GC.sum(), _LEAST)
    shown_BC = np.eye(len(channels))[replay.channel_B] * rows["cost"].to_numpy(dtype=np.float64)[:, None]
    today_GC = by_part(shown_BC) * decisions
    return [
        Part(str(campaign), channel, *(float(of[g, c]) for of in (today_GC, spend_GC, gain_GC)))
        for g, campaign in enumerate(campaigns)
        for c, channel in enumerate(channels)
    ]
