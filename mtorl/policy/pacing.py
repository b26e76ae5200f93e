"""Paces a budget by a price that follows spend, so that the budget lasts as long as its schedule requires.

    plan = Plan(500.0, Schedule.following(traffic, edges))                 # traffic expected between the edges
    state = plan.start(price_unit=0.3)                                     # first price: gain per currency unit
    state = plan.update(state, at=now, spent=ledger.spent + ledger.reserved)     # every few minutes
    decide(..., price_BC=plan.price(state))

The clock is time or, if the total number of opportunities is known, the number so far. The multiplier mu is the price
in units of the first price. Adaptive pacing (Balseiro & Gur 2019, Management Science 65(9)) changes mu by the gap from
the spend z_t to its target rho_t, mu <- proj_[0, mu_max] (mu - eps (rho_t - z_t)). This module differs in three ways:

- *Target.* The target is the scheduled spend between two updates plus a correction. The correction closes a gap of
  *cumulative* spend while the next HORIZON of the budget is scheduled. At most, it doubles the pace or stops spending.
  Without the correction, the integral term of the controller, only a lasting gap could sustain a higher price.
- *Step.* The step multiplies 1 + mu: a mirror descent step (Balseiro, Lu & Mirrokni 2023, Operations Research 71(1)),
  because spend responds to relative changes of the price.
- *Units.* Spend is measured as a share of the budget, and time as the share scheduled so far. So the same constants fit
  any currency, and intervals that are short, long or quiet. A missed update only makes the next interval longer.

      1 + mu <- (1 + mu) exp(step)         step = (z_t - rho_t) / max(REACTION, elapsed / MAX_STEP)

If one exposure is a large part of the budget, single exposures make spend, and so the price, noisy. So REACTION and
HORIZON are at least the cost of GRAINS exposures at the highest cost.

If a plan is changed while it runs, the new plan begins at `since`, with `before` already spent, and schedules the rest
of the budget over the rest of the time. Because the price does not change between updates, update at least every half
percent of the budget. The best schedule is the spend expected at a constant price, and expected traffic is close to
that. The ledger enforces the cap, which may exceed the budget by `spare`, because a hard stop at the budget would on
average leave money unspent. If no money is left, the price is so high that no exposure is worth it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import expm1, inf, isfinite, log1p
from typing import NamedTuple, Self

import numpy as np

from mtorl.policy.periods import Period

REACTION = 0.02  # share of the budget; if spend exceeds its target by this share, 1 + mu grows by a factor of e
MAX_STEP = 0.15  # step if a long interval has twice its scheduled spend; a larger step may overshoot
HORIZON = 0.05  # share of the budget; a gap closes while the schedule spends this share
GRAINS = 20.0  # exposures at their highest cost; lower bound of REACTION and HORIZON
MAX_MULTIPLIER = 100.0
STOP_MULTIPLIER = 1e6  # used if no money is left


@dataclass(frozen=True)
class State:
    """State of the controller between two updates."""

    at: float  # clock time of the last update, in the unit of the plan's times
    spent: float  # currency units that were spent or reserved by then
    multiplier: float  # mu
    price_unit: float  # gain per currency unit at which mu is 1: the first price

    def __post_init__(self) -> None:
        if not (isfinite(self.at) and isfinite(self.spent) and 0 <= self.multiplier < inf):
            raise ValueError(f"at, spent and multiplier must be finite, multiplier not negative, got {self}")
        if not 0 < self.price_unit < inf:
            raise ValueError(f"price_unit must be a positive number, got {self.price_unit}")


@dataclass(frozen=True)
class Schedule:
    """Share of a budget that should be spent by each time."""

    times: tuple[float, ...]  # ascending, any unit
    shares: tuple[float, ...]  # to be spent by each time, from 0 to 1, with linear interpolation

    @classmethod
    def even(cls, start: float, end: float) -> Self:
        """Create a schedule with constant spend per unit of time."""
        return cls((start, end), (0.0, 1.0))

    @classmethod
    def following(cls, traffic: Sequence[float], edges: Sequence[float]) -> Self:
        """Create a schedule in proportion to traffic, not all 0, in the intervals between ascending `edges`."""
        cumulative = np.r_[0.0, np.cumsum(traffic)]
        return cls(tuple(map(float, edges)), tuple((cumulative / cumulative[-1]).tolist()))

    def share(self, at: float) -> float:
        """Return the share to be spent by a time."""
        if at <= self.times[0]:
            return 0.0
        if at >= self.times[-1]:
            return 1.0
        i = bisect_right(self.times, at)
        (t0, t1), (s0, s1) = self.times[i - 1 : i + 1], self.shares[i - 1 : i + 1]
        return s0 + (s1 - s0) * (at - t0) / (t1 - t0)


@dataclass(frozen=True)
class Plan:
    """A budget and its schedule. A running plan may be replaced, for example by one with a larger budget."""

    budget: float  # currency units
    schedule: Schedule
    since: float = -inf  # start of the plan, if it is later than the schedule's start
    before: float = 0.0  # currency units spent before that start
    grain: float = 0.0  # highest cost of an exposure, currency units
    spare: float = 0.0  # currency units that may be spent above the budget; they are not part of the schedule

    def __post_init__(self) -> None:
        if not 0 < self.budget < inf:
            raise ValueError(f"budget must be a positive number, got {self.budget}")
        if not 0 <= self.before < self.budget or not 0 <= self.grain < inf:
            raise ValueError(f"before must lie below the budget, grain be a number >= 0, got {self}")

    @property
    def size(self) -> float:
        """Currency units that the plan schedules."""
        return self.budget - self.before

    @property
    def limit(self) -> float:
        """Currency units that may be spent in total."""
        return self.budget + self.spare

    @property
    def largest_gap(self) -> float:
        """Gap to the schedule, currency units, at which the correction doubles the pace or plans no spend."""
        return self._at_least(HORIZON) * self.size

    def start(self, price_unit: float) -> State:
        """Return the first state, for a first price (gain per currency unit)."""
        at = max(self.since, self.schedule.times[0])
        return State(at, self.before, multiplier=1.0, price_unit=price_unit)

    def scheduled(self, at: float) -> float:
        """Return the scheduled cumulative spend at a time, currency units."""
        first = self.schedule.share(self.since)
        share = (self.schedule.share(at) - first) / (1.0 - first) if first < 1.0 else 1.0
        return self.before + self.size * max(share, 0.0)

    def planned(self, state: State, until: float) -> float:
        """Return the target spend rho_t from the last update until a time, currency units; at most the rest."""
        gap = (state.spent - self.scheduled(state.at)) / self.size
        pace = 1.0 - min(max(gap / self._at_least(HORIZON), -1.0), 1.0)
        wanted = pace * (self.scheduled(until) - self.scheduled(state.at))
        return min(wanted, max(self.limit - state.spent, 0.0))

    def price(self, state: State) -> float:
        """Return the price until the next update: the gain that one currency unit must earn."""
        return state.price_unit * (state.multiplier if state.spent < self.limit else STOP_MULTIPLIER)

    def update(self, state: State, at: float, spent: float) -> State:
        """Return the state after an update of the price by the spend since the last update.

        Args:
            at: Clock time of `spent`. A report that is older than the state changes nothing.
            spent: Currency units spent since the budget began, including reservations; falls if reservations are
                cancelled.
        """
        if not (isfinite(at) and isfinite(spent)):
            raise ValueError(f"at and spent must be finite, got {at} and {spent}")
        if at < state.at:
            return state
        excess = (spent - state.spent - self.planned(state, at)) / self.size
        elapsed = (self.scheduled(at) - self.scheduled(state.at)) / self.size
        step = excess / max(self._at_least(REACTION), elapsed / MAX_STEP)
        height = min(max(log1p(state.multiplier) + step, 0.0), log1p(MAX_MULTIPLIER))
        return replace(state, at=at, spent=spent, multiplier=expm1(height))

    def _at_least(self, share: float) -> float:
        return max(share, GRAINS * self.grain / self.size)


class Pace(NamedTuple):
    """A paced account compared with its plan, in currency units; used only for metrics, never for decisions."""

    arm: str
    campaign: str  # "*" means all campaigns; likewise for the channel
    channel: str
    period: Period
    planned: float  # scheduled spend by now
    committed: float  # spent and reserved
    largest_gap: float

    @classmethod
    def of(cls, arm: str, campaign: str, channel: str, period: Period, plan: Plan, state: State) -> Self:
        """Return the account of a plan at its last update."""
        return cls(arm, campaign, channel, period, plan.scheduled(state.at), state.spent, plan.largest_gap)

    @property
    def ahead(self) -> float:
        """Spend above (negative: below) the plan, in units of `largest_gap`, at which the correction is largest."""
        return (self.committed - self.planned) / self.largest_gap


def extremes(paces: Iterable[Pace]) -> dict[tuple[str, Period], tuple[float, float]]:
    """Return the largest distances ahead of and behind plan, by arm and period; 0 if no account is ahead or behind."""
    found: dict[tuple[str, Period], tuple[float, float]] = {}
    for pace in paces:
        ahead, behind = found.get((pace.arm, pace.period), (0.0, 0.0))
        found[pace.arm, pace.period] = max(ahead, pace.ahead), max(behind, -pace.ahead)
    return found
