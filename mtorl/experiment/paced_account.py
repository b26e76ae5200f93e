"""Paces an account, so that an arm's part of a budget lasts until the end of the budget's period.

The router that updates an account stores its state in the ledger for all routers. If the terms of an account change
(its stage, amount, period or pacing), the account gets a new plan, which spreads the remaining money over the remaining
time. With the old plan, an arm whose part of the budget grew would seem far behind schedule, and an arm whose part
shrank far ahead.

The parts of a budget differ in size. If pacing were worse for a small part, the arms would differ by more than their
policies. Two measures prevent this; `benchmarks/experiments.py` tests both:

- *Spare.* If spending stopped at exactly its part, an account would have money left on most days, and could not make up
  for it on other days. So the ledger's limit of an arm exceeds the arm's part by up to the cost of SPARE exposures,
  times the other arms' share of the budget. The plan spends only the part, and the account of all arms still limits the
  sum.
- *First price.* Until an account has spent the cost of GRAINS exposures, it uses the current price of the budget's
  largest account, which finds the right price sooner. The account's own multiplier corrects that price.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import NamedTuple
from zlib import crc32

import orjson
from pydantic import ConfigDict, TypeAdapter

from mtorl.experiment import messages
from mtorl.experiment.budget import AccountLimit
from mtorl.policy.pacing import GRAINS, STOP_MULTIPLIER, Pace, Plan, Schedule, State
from mtorl.policy.periods import Period
from mtorl.policy.schedule import Pacing

COUNTED = -1.0
"""Value of `Kept.began` for an account whose time is counted in opportunities instead of seconds."""
Scope = tuple[str, str, str]  # arm, campaign and channel, or "*"
# An arm may exceed its part of a budget by the highest cost of this many exposures.
SPARE = 3.0
# An arm may exceed its part by at most this fraction of the other arms' money.
MOST_SPARE = 0.05

# An account's price is updated at least this often, in seconds.
_UPDATE_SECONDS = 5.0
# The same, as a fraction of the plan's duration.
_UPDATE_SHARE = 0.005
# At least this fraction of the planned opportunities is always expected to come.
_GRACE = 0.01
# A smaller relative change of the price is not written to the ledger.
_PRICE_MOVED = 0.01
# Seconds until a change of only the spend is written to the ledger.
_WRITTEN_SECONDS = 60.0
# Seconds until an unchanged account is written again.
_IDLE_SECONDS = 86_400.0
# A higher multiplier is implausible: the arm probably ignores the price.
_PLAUSIBLE = 10.0
# A first price is the median of at least this many forecasts.
_FORECASTS = 20
# `Forecasts.usual` raises an error after this many decisions without enough forecasts.
_ASKED = 500


def account_name(limit: AccountLimit) -> str:
    """Return the key under which the ledger stores the pacing state of an account."""
    return orjson.dumps([limit.arm, limit.campaign, limit.channel, limit.period]).decode()


def scope_of(name: str) -> Scope:
    """Return the arm, campaign and channel of an account from its key."""
    arm, campaign, channel, _ = orjson.loads(name)
    return arm, campaign, channel


def highest_cost(limit: AccountLimit, cost_cap: Mapping[str, float]) -> float:
    """Return the highest cost of one exposure that an account pays for, in currency units."""
    if limit.channel == "*":
        return max(cost_cap.values(), default=0.0)
    return cost_cap.get(limit.channel, 0.0)


def spare(limit: AccountLimit, asks: bool, grain: float) -> float:
    """Return how much an account may spend in addition to its part of the budget, in currency units.

    The result is 0 for an arm that does not receive the price, because it would always spend the additional money.

    Args:
        asks: Whether the arm has an endpoint, which receives the price.
        grain: Highest cost of an exposure, in currency units.
    """
    if limit.pacing is None or not asks or not limit.part:
        return 0.0
    return (1.0 - limit.part) * min(SPARE * grain, MOST_SPARE * limit.limit / limit.part)


@dataclass(frozen=True)
class Target:
    """An account that is paced, with the settings that define its plan."""

    limit: AccountLimit
    terms: str  # settings that define the plan, from `terms_of`
    grain: float  # highest cost of an exposure, currency units
    # Whether the arm has an endpoint, and so receives the price.
    asks: bool

    @property
    def budget(self) -> tuple[str, str, Period]:
        """Return the campaign, channel and period, which identify the budget."""
        return self.limit.campaign, self.limit.channel, self.limit.period

    @property
    def planned_share(self) -> float:
        """Return the fraction of the account's limit that the plan spends, which excludes the `spare`."""
        part, more = self.limit.limit, spare(self.limit, self.asks, self.grain)
        return part / (part + more) if more else 1.0


class Kept(NamedTuple):
    """The pacing state of an account, which the ledger stores."""

    # State of the price controller.
    state: State
    # Gain that each currency unit must earn.
    price: float
    # Beginning of the budget's period, seconds since 1970, or COUNTED.
    began: float
    # Limit, part and pacing settings; if they change, the account gets a new plan.
    terms: str
    # Start of the plan, in the unit of the account's clock.
    since: float
    # Currency units spent before the plan started.
    before: float
    # First price in the experiment file, if any.
    stated: float | None = None
    # Currency units spent with the current first price.
    learned: float = 0.0
    # Time of the last write to the ledger, seconds since 1970.
    written: float = 0.0

    @property
    def to_follow(self) -> float:
        """Return the price with which smaller accounts of the same budget begin.

        The price is at least a tenth of the price unit, because a price controller can't start at 0.
        """
        factor = self.state.multiplier
        return self.state.price_unit * (max(factor, 1.0 / _PLAUSIBLE) if factor < _PLAUSIBLE else 1.0)

    def worth_writing(self, written: Kept | None, now: float) -> bool:
        """Return whether this state differs enough from the state in the ledger to be written there."""
        if written is None or (written.began, written.terms) != (self.began, self.terms):
            return True
        if abs(self.price - written.price) > _PRICE_MOVED * written.price:
            return True
        age = abs(now - written.written)
        return age > _IDLE_SECONDS or (age > _WRITTEN_SECONDS and self.state.spent != written.state.spent)


KEPT = TypeAdapter(Kept, config=ConfigDict(allow_inf_nan=False))
"""Converts `Kept` to and from JSON for the ledger."""


@dataclass(frozen=True)
class Clock:
    """The clock by which an account is paced, in seconds or opportunities."""

    began: float  # beginning of the budget's period
    # Share of the money that should be spent by each time.
    schedule: Schedule
    at: float
    # True: counts opportunities; false: counts seconds.
    counted: bool
    # Whether money may be spent now.
    open: bool
    # Seconds until the schedule next starts or ends.
    edge: float

    @classmethod
    def of_time(cls, limit: AccountLimit, pacing: Pacing, began: float, now: float) -> Clock:
        """Return the clock of a budget that is paced by time.

        Args:
            began: Beginning of the current period, in seconds since 1970.
        """
        schedule = pacing.schedule(limit.period, limit.timezone, began, now)
        first, last = schedule.times[0], schedule.times[-1]
        # The period may have ended after the account's balances were read.
        at = min(max(now, first), last)
        edge = min((time - now for time in (first, last) if time > now), default=inf)
        return cls(first, schedule, at, False, limit.period != "total" or first <= now < last, edge)

    @classmethod
    def of_count(cls, limit: AccountLimit, opportunities: int, at: float, had: float) -> Clock:
        """Return the clock of a budget that should last for a number of opportunities.

        Args:
            at: Number of opportunities that this arm has had.
            had: Number of opportunities that all arms together have had.
        """
        left = max(opportunities - had, _GRACE * opportunities)
        return cls(COUNTED, Schedule.even(0.0, at + max(limit.part * left, 1.0)), at, True, True, inf)

    @property
    def interval(self) -> float:
        """Return the seconds until the price must be updated; 0 means at each opportunity."""
        if self.counted:
            return 0.0
        return min(_UPDATE_SECONDS, _UPDATE_SHARE * (self.schedule.times[-1] - self.schedule.times[0]), self.edge)


def terms_of(limit: AccountLimit) -> str:
    """Return an account's part of the budget and its pacing settings as text."""
    assert limit.pacing is not None
    return f"{limit.part:.9g} {crc32(limit.pacing.model_dump_json().encode())}"


def updated(
    target: Target,
    clock: Clock,
    amounts: tuple[float, float],
    kept: Kept | None,
    first: tuple[float, float],
    largest: Kept | None = None,
) -> tuple[Kept, Pace | None]:
    """Update the price of an account, and return its new state and its spending compared with its plan.

    The comparison is None if there is no money to pace, or if money may not be spent now.

    Args:
        amounts: The account's limit and the money that is already spent or reserved, both in currency units.
        kept: State in the ledger, possibly from an earlier period.
        first: Multiplier and price unit with which a new plan begins.
        largest: State of the budget's largest account, whose price is used at first.

    Raises:
        ValueError: the account can't be paced.
        OverflowError: the account can't be paced.
    """
    at, (amount, committed) = clock.at, amounts
    # Leave out the end of a clock that counts opportunities: it changes at each update, and would begin a new plan.
    end = "" if clock.counted else clock.schedule.times[-1]
    terms = f"{amount:.9g} {target.terms} {end}"
    here = State(at, committed, *first)
    stated, learned = target.limit.pacing.price if target.limit.pacing else None, committed
    if kept is not None and kept.stated == stated:
        of_before = kept.state.spent if kept.began == clock.began else 0.0
        learned = kept.learned + max(committed - of_before, 0.0)
    anew = (
        kept is None
        or (kept.began, kept.terms) != (clock.began, terms)
        or kept.state.at > at  # the clock was set back
        or kept.since > at
        or committed < amount <= kept.before  # reserved money has been released
    )
    # In a new plan, money that is already spent or reserved counts as spent before the plan.
    state, since, before = (here, at, committed) if anew or kept is None else (kept.state, kept.since, kept.before)
    if largest is not None and learned < GRAINS * target.grain:
        state = replace(state, price_unit=largest.to_follow)
    pace, price = None, here.price_unit * STOP_MULTIPLIER
    if before >= amount:  # there was no money left to pace
        state = here
    else:
        budget = before + (amount - before) * target.planned_share
        plan = Plan(budget, clock.schedule, since, before, target.grain, amount - budget)
        if not (clock.counted and at == state.at):
            state = plan.update(state, at, committed)
        if clock.open:
            limit, price = target.limit, plan.price(state)
            pace = Pace.of(limit.arm, limit.campaign, limit.channel, limit.period, plan, state)
    return Kept(state, price, clock.began, terms, since, before, stated, learned), pace


def first_price(limit: AccountLimit, last: Kept | None) -> tuple[float, float] | None:
    """Return the multiplier and the price unit with which a new plan of an account begins.

    Both come from the last plan, unless the first price in the experiment file has changed.
    """
    assert limit.pacing is not None
    stated = limit.pacing.price
    if last is not None and stated in (None, last.stated):
        return last.state.multiplier, last.state.price_unit
    return None if stated is None else (1.0, stated)


class Forecasts:
    """Recent forecasts of the arms, as expected reward per unit of expected cost."""

    def __init__(self) -> None:
        self._gains: deque[float] = deque(maxlen=5 * _FORECASTS)
        self._asked = 0

    def add(self, reward: float | None, cost: float | None) -> None:
        """Add the forecast for one decision; both values are None if the arm sent no forecast."""
        self._asked += 1
        if reward is not None and cost:
            self._gains.append(reward / cost)

    def usual(self) -> float | None:
        """Return the median of the recent forecasts, or None if there are too few.

        Raises:
            ValueError: after 500 decisions, there are still too few forecasts.
        """
        found = median(self._gains) if len(self._gains) >= _FORECASTS else 0.0
        if 0.0 < found < inf:
            return found
        if self._asked < _ASKED:
            return None
        raise ValueError(messages.NO_FORECASTS())
