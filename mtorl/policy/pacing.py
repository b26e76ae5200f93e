"""Paces a budget by a price that follows spend, so that the budget lasts as long as its schedule requires.

    plan = Plan(500.0, Schedule.following(traffic, edges))                 # traffic expected between the edges
    state = plan.start(price_unit=0.3)                                     # first price: gain per currency unit
    state = plan.update(state, at=now, spent=ledger.spent + ledger.reserved)     # every few minutes
    decide(..., price_BC=plan.price(state))

The clock is time or, if the total number of opportunities is known, the number so far. The multiplier mu is the price
in units of the first price. Adaptive pacing (Balseiro & Gur 2019, Management Science 65(9)) changes mu by the gap from
the spend z_t to its target rho_t, mu <- proj_[0, mu_max] (mu - eps (rho_t - z_t)). This module differs in three ways:

- *Target.* The target is the scheduled spend between two updates plus a correction. The correction closes the gap
  between the *cumulative* spend and the schedule while the next HORIZON of the budget is spent. At most, it doubles the
  scheduled spend, or stops spending. The correction is the integral term of the controller. Without it, the price could
  stay at a higher value only as long as spend stays ahead of the schedule.
- *Step.* The step multiplies 1 + mu: a mirror descent step (Balseiro, Lu & Mirrokni 2023, Operations Research 71(1)),
  because spend responds to relative changes of the price.
- *Units.* Spend is measured as a share of the budget, and time as the share scheduled so far. So the same constants fit
  any currency, and intervals that are short, long or quiet. A missed update only makes the next interval longer.

      1 + mu <- (1 + mu) exp(step)         step = (z_t - rho_t) / max(REACTION, elapsed / MAX_STEP)

If one exposure is a large part of the budget, single exposures make spend, and so the price, noisy. So REACTION and
HORIZON are at least the cost of GRAINS exposures at the highest cost.

If a plan is changed while it runs, the new plan begins at `since`, with `before` already spent, and schedules the rest
of the budget over the rest of the time. The price does not change between updates, so update it at least each time half
a percent of the budget is scheduled. The best schedule is the spend that would result from a constant price. A schedule
that follows the expected traffic is close to it. The ledger enforces a cap. The cap may exceed the budget by `spare`,
because with a hard stop at the budget, some money would on average stay unspent. If no money is left, the price is so
high that no exposure is worth it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import expm1, inf, isfinite, log1p
from typing import NamedTuple, Self

import numpy as np

from mtorl.policy.periods import Period

# If spend exceeds its target by this share of the budget, 1 + mu grows by the factor e.
REACTION = 0.02
# change of log(1 + mu) if spend was twice the schedule for long
MAX_STEP = 0.15
# share of the budget during which the correction closes the gap between spend and schedule
HORIZON = 0.05
# REACTION and HORIZON are at least the highest cost of this many exposures.
GRAINS = 20.0
MAX_MULTIPLIER = 100.0
STOP_MULTIPLIER = 1e6  # used if no money is left


@dataclass(frozen=True)
class State:
    """State of the controller between two updates."""

    # time of the last update, on the plan's clock
    at: float
    spent: float  # currency units that were spent or reserved
    multiplier: float
    # first price, in gain per currency unit
    price_unit: float

    def __post_init__(self) -> None:
        if not (isfinite(self.at) and isfinite(self.spent) and 0 <= self.multiplier < inf):
            raise ValueError(f"at, spent and multiplier must be finite, multiplier not negative, got {self}")
        if not 0 < self.price_unit < inf:
            raise ValueError(f"price_unit must be a positive number, got {self.price_unit}")


@dataclass(frozen=True)
class Schedule:
    """The share of a budget that should be spent by each point in time."""

    times: tuple[float, ...]  # in ascending order, in any unit
    # from 0 to 1; linear between the times
    shares: tuple[float, ...]

    @classmethod
    def even(cls, start: float, end: float) -> Self:
        """Create a schedule that spends the same amount in each unit of time."""
        return cls((start, end), (0.0, 1.0))

    @classmethod
    def following(cls, traffic: Sequence[float], edges: Sequence[float]) -> Self:
        """Create a schedule that spends in proportion to expected traffic.

        Args:
            traffic: Expected traffic in each interval, in any unit; not all 0.
            edges: Ascending times at which the intervals begin, and the time at which the last one ends.
        """
        cumulative = np.r_[0.0, np.cumsum(traffic)]
        return cls(tuple(map(float, edges)), tuple((cumulative / cumulative[-1]).tolist()))

    def share(self, at: float) -> float:
        """Return the share of the budget that should be spent by a time."""
        if at <= self.times[0]:
            return 0.0
        if at >= self.times[-1]:
            return 1.0
        i = bisect_right(self.times, at)
        (t0, t1), (s0, s1) = self.times[i - 1 : i + 1], self.shares[i - 1 : i + 1]
        return s0 + (s1 - s0) * (at - t0) / (t1 - t0)


@dataclass(frozen=True)
class Plan:
    """A budget, and the schedule by which it should be spent."""

    budget: float
    schedule: Schedule
    # time at which the plan started; by default, the start of the schedule
    since: float = -inf
    before: float = 0.0  # spent before the plan started
    grain: float = 0.0  # highest cost of an exposure
    # extra currency units, because a hard stop leaves money unspent
    spare: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.budget < inf:
            raise ValueError(f"budget must be a positive number, got {self.budget}")
        if not 0 <= self.before < self.budget or not 0 <= self.grain < inf:
            raise ValueError(f"before must lie below the budget, grain be a number >= 0, got {self}")

    @property
    def size(self) -> float:
        """The money that is left at the plan's start, in currency units."""
        return self.budget - self.before

    @property
    def limit(self) -> float:
        """The amount that may be spent in total, including the spare, in currency units."""
        return self.budget + self.spare

    @property
    def largest_gap(self) -> float:
        """The gap between spend and schedule, in currency units, at which the correction is largest.

        If spend is behind by this gap, the planned pace is doubled. If spend is ahead by it, the planned pace is 0.
        """
        return self._at_least(HORIZON) * self.size

    def start(self, price_unit: float) -> State:
        """Return the state of the controller at the start of the plan.

        Args:
            price_unit: First price, in gain per currency unit.
        """
        at = max(self.since, self.schedule.times[0])
        return State(at, self.before, multiplier=1.0, price_unit=price_unit)

    def scheduled(self, at: float) -> float:
        """Return the planned spend by a time, in currency units."""
        first = self.schedule.share(self.since)
        share = (self.schedule.share(at) - first) / (1.0 - first) if first < 1.0 else 1.0
        return self.before + self.size * max(share, 0.0)

    def planned(self, state: State, until: float) -> float:
        """Return the planned spend from the last update to `until` (rho_t), in currency units."""
        gap = (state.spent - self.scheduled(state.at)) / self.size
        pace = 1.0 - min(max(gap / self._at_least(HORIZON), -1.0), 1.0)
        wanted = pace * (self.scheduled(until) - self.scheduled(state.at))
        return min(wanted, max(self.limit - state.spent, 0.0))

    def price(self, state: State) -> float:
        """Return the gain that one currency unit must earn until the next update."""
        return state.price_unit * (state.multiplier if state.spent < self.limit else STOP_MULTIPLIER)

    def update(self, state: State, at: float, spent: float) -> State:
        """Adapt the price to the spend since the last update, and return the new state of the controller.

        Args:
            at: Time at which `spent` was read. If it is before the last update, nothing changes.
            spent: Currency units spent or reserved since the budget began.
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
    """The spending of an account and its plan, in currency units."""

    arm: str
    # "*" for all campaigns or all channels
    campaign: str
    channel: str
    period: Period
    planned: float
    committed: float  # spent or reserved
    largest_gap: float

    @classmethod
    def of(cls, arm: str, campaign: str, channel: str, period: Period, plan: Plan, state: State) -> Self:
        """Return the spending of an account and its plan, as of the last update."""
        return cls(arm, campaign, channel, period, plan.scheduled(state.at), state.spent, plan.largest_gap)

    @property
    def ahead(self) -> float:
        """How far spending is ahead of the plan, in multiples of `largest_gap`."""
        return (self.committed - self.planned) / self.largest_gap


def extremes(paces: Iterable[Pace]) -> dict[tuple[str, Period], tuple[float, float]]:
    """Return the largest lead and the largest lag of each arm and period, in multiples of `largest_gap`."""
    found: dict[tuple[str, Period], tuple[float, float]] = {}
    for pace in paces:
        ahead, behind = found.get((pace.arm, pace.period), (0.0, 0.0))
        found[pace.arm, pace.period] = max(ahead, pace.ahead), max(behind, -pace.ahead)
    return found
