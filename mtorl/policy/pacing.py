"""Pacing: a price that follows spend, so that a budget lasts as long as its schedule says.

    plan = Plan(500.0, Schedule.following(traffic, edges))                 # traffic expected between the edges
    state = plan.start(price_unit=0.3)                                     # gain per currency unit, to begin with
    state = plan.update(state, at=now, spent=ledger.spent + ledger.reserved)     # every few minutes
    decide(..., price_BC=plan.price(state))

The clock is time or, where their number is known, the opportunities so far. The multiplier mu is the price in units of
the first price. Adaptive pacing (Balseiro & Gur 2019, Management Science 65(9)) moves it by the gap between the spend
z_t and its target rho_t, mu <- proj_[0, mu_max] (mu - eps (rho_t - z_t)). Three things are different here:

- *Target.* Scheduled spend between two updates, plus a correction that would close the gap of *cumulative* spend while
  the next HORIZON of the budget is scheduled; it at most doubles the pace, or stops it. Without the correction only a
  lasting gap would hold a higher price up (in a controller's terms: the step is proportional, the correction integral).
- *Step.* It multiplies 1 + mu: a mirror descent step (Balseiro, Lu & Mirrokni 2023, Operations Research 71(1)), since
  spend answers to relative changes of the price.
- *Units.* Spend counts in shares of the budget, and the clock is the share scheduled so far, in any currency and for
  short, long and quiet intervals alike. A missed update only makes the next interval longer.

      1 + mu <- (1 + mu) exp(step)         step = (z_t - rho_t) / max(REACTION, elapsed / MAX_STEP)

Where one exposure is a large part of the budget, spend is noise for a while, and so would be the price. So both
REACTION and HORIZON are at least GRAINS of the highest cost of one exposure.

A plan that is changed while it runs begins at `since`, when `before` was already spent, and schedules the rest over the
rest. Update at least every half percent of the budget: spend between two updates moves no price. The best schedule is
the spend expected at a constant price; expected traffic is close to it. The ledger keeps the cap, which may lie above
the budget by `spare`: a plan that had to stop exactly at its budget would leave some of it over in the mean. With
nothing left the price is one that no exposure can earn.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import expm1, inf, isfinite, log1p
from typing import NamedTuple, Self

import numpy as np

from mtorl.policy.periods import Period

REACTION = 0.02  # share of the budget; an excess of it multiplies 1 + mu by e
MAX_STEP = 0.15  # step for twice the scheduled spend in a long interval; a larger one may overshoot
HORIZON = 0.05  # share of the budget; a gap should close while this much is scheduled
GRAINS = 20.0  # exposures at their highest cost; both of them are at least as much
MAX_MULTIPLIER = 100.0
STOP_MULTIPLIER = 1e6  # once the budget is gone


@dataclass(frozen=True)
class State:
    """State between two updates."""

    at: float  # the clock at the last update, in the unit of the plan's times
    spent: float  # currency units, spent or reserved until then
    multiplier: float  # mu
    price_unit: float  # gain per currency unit: the price of the budget, or mean gain / mean cost if that is 0

    def __post_init__(self) -> None:
        if not (isfinite(self.at) and isfinite(self.spent) and 0 <= self.multiplier < inf):
            raise ValueError(f"at, spent and multiplier must be finite, multiplier not negative, got {self}")
        if not 0 < self.price_unit < inf:
            raise ValueError(f"price_unit must be a positive number, got {self.price_unit}")


@dataclass(frozen=True)
class Schedule:
    """Share of a budget to be spent by each time."""

    times: tuple[float, ...]  # ascending, any unit
    shares: tuple[float, ...]  # to be spent by then; from 0 to 1, in between by straight lines

    @classmethod
    def even(cls, start: float, end: float) -> Self:
        """Schedule with equal shares in periods of equal length."""
        return cls((start, end), (0.0, 1.0))

    @classmethod
    def following(cls, traffic: Sequence[float], edges: Sequence[float]) -> Self:
        """Spend in proportion to expected traffic, some of it above 0, between ascending edges (one more)."""
        cumulative = np.r_[0.0, np.cumsum(traffic)]
        return cls(tuple(map(float, edges)), tuple((cumulative / cumulative[-1]).tolist()))

    def share(self, at: float) -> float:
        """Share to be spent by a time."""
        if at <= self.times[0]:
            return 0.0
        if at >= self.times[-1]:
            return 1.0
        i = bisect_right(self.times, at)
        (t0, t1), (s0, s1) = self.times[i - 1 : i + 1], self.shares[i - 1 : i + 1]
        return s0 + (s1 - s0) * (at - t0) / (t1 - t0)


@dataclass(frozen=True)
class Plan:
    """A budget and its schedule. It may be replaced while it runs, for instance with a larger budget."""

    budget: float  # currency units
    schedule: Schedule
    since: float = -inf  # when it began, if that was after the schedule's start
    before: float = 0.0  # currency units, spent by then
    grain: float = 0.0  # currency units, the highest cost of an exposure
    spare: float = 0.0  # currency units that may be spent above the budget; they are not planned

    def __post_init__(self) -> None:
        if not 0 < self.budget < inf:
            raise ValueError(f"budget must be a positive number, got {self.budget}")
        if not 0 <= self.before < self.budget or not 0 <= self.grain < inf:
            raise ValueError(f"before must lie below the budget, grain be a number >= 0, got {self}")

    @property
    def size(self) -> float:
        """Currency units that it has to spend."""
        return self.budget - self.before

    @property
    def limit(self) -> float:
        """Currency units that may be spent."""
        return self.budget + self.spare

    @property
    def largest_gap(self) -> float:
        """Gap to the schedule at which the pace is doubled, or no spend is planned, currency units."""
        return self._at_least(HORIZON) * self.size

    def start(self, price_unit: float) -> State:
        """The first state, with the first price: gain per currency unit."""
        at = max(self.since, self.schedule.times[0])
        return State(at, self.before, multiplier=1.0, price_unit=price_unit)

    def scheduled(self, at: float) -> float:
        """Spend that the schedule wants by a time, currency units."""
        first = self.schedule.share(self.since)
        share = (self.schedule.share(at) - first) / (1.0 - first) if first < 1.0 else 1.0
        return self.before + self.size * max(share, 0.0)

    def planned(self, state: State, until: float) -> float:
        """Spend to plan from the last update until a time, currency units: rho_t, never more than is left."""
        gap = (state.spent - self.scheduled(state.at)) / self.size
        pace = 1.0 - min(max(gap / self._at_least(HORIZON), -1.0), 1.0)
        wanted = pace * (self.scheduled(until) - self.scheduled(state.at))
        return min(wanted, max(self.limit - state.spent, 0.0))

    def price(self, state: State) -> float:
        """Price until the next update: gain that one currency unit must earn."""
        return state.price_unit * (state.multiplier if state.spent < self.limit else STOP_MULTIPLIER)

    def update(self, state: State, at: float, spent: float) -> State:
        """Move the price by the spend since the last update.

        Args:
            at: The time that `spent` belongs to. A report older than the state changes nothing.
            spent: Currency units since the budget began, reservations included; it falls when reservations are
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
    """A paced account against its plan, for metrics only: no decision reads it. Money in currency units."""

    arm: str
    campaign: str  # "*" is any, as for the channel
    channel: str
    period: Period
    planned: float  # by now
    committed: float  # spent and reserved
    largest_gap: float

    @classmethod
    def of(cls, arm: str, campaign: str, channel: str, period: Period, plan: Plan, state: State) -> Self:
        """The account of a plan, at its last update."""
        return cls(arm, campaign, channel, period, plan.scheduled(state.at), state.spent, plan.largest_gap)

    @property
    def ahead(self) -> float:
        """Spend above the plan, in units of the largest gap, where pacing does all that it can; negative below."""
        return (self.committed - self.planned) / self.largest_gap


def extremes(paces: Iterable[Pace]) -> dict[tuple[str, Period], tuple[float, float]]:
    """Largest distance ahead and behind, of all accounts of an arm and period; 0 where none is."""
    found: dict[tuple[str, Period], tuple[float, float]] = {}
    for pace in paces:
        ahead, behind = found.get((pace.arm, pace.period), (0.0, 0.0))
        found[pace.arm, pace.period] = max(ahead, pace.ahead), max(behind, -pace.ahead)
    return found
