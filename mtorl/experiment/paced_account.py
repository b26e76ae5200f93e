"""Paces an account: defines its clock, its plan, and the state that one router stores in the ledger for all routers.

If the terms of an account change (its stage, amount, first period or pacing), the account gets a new plan. The new plan
spreads the rest of the money over the rest of the time. With the old plan, an arm whose part of the budget grew would
seem far behind schedule, and an arm whose part shrank far ahead.

The parts of a budget differ in size. If pacing were worse for a small part, the arms would differ by more than their
policies. Two measures prevent this; `benchmarks/experiments.py` tests both:

- *Spare.* If spending stopped at exactly its part, an account would have money left on most days and could not make up
  for it on others. So the ledger's limit of an arm exceeds the arm's part by up to SPARE exposures, times the other
  arms' share of the budget. The plan spends only the part, and the account of all arms still limits the sum.
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
"""In place of the beginning of a period: the account's clock counts opportunities instead of seconds."""
Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any
SPARE = 3.0  # the spare pays for this many exposures at their highest cost
MOST_SPARE = 0.05  # upper limit of the spare, as a fraction of the whole budget

_UPDATE_SECONDS = 5.0  # longest time between updates
_UPDATE_SHARE = 0.005  # longest time between updates, as a fraction of the plan's duration
_GRACE = 0.01  # if all expected opportunities have passed, the rest of the money is spread over 1 % more
_PRICE_MOVED = 0.01  # a smaller relative change of the price is not written to the ledger
_WRITTEN_SECONDS = 60.0  # an account whose spend changed is written after this time, even at the same price
_IDLE_SECONDS = 86_400.0  # any account is written after this time
_PLAUSIBLE = 10.0  # a multiplier above this is implausible, because the arm probably ignores the price
_FORECASTS = 20  # forecasts that a first price needs, in each campaign with its own budget
_ASKED = 500  # if there are fewer forecasts after this many decisions, it is an error


def account_name(limit: AccountLimit) -> str:
    """Return the name of an account in the ledger's pacing store."""
    return orjson.dumps([limit.arm, limit.campaign, limit.channel, limit.period]).decode()


def scope_of(name: str) -> Scope:
    """Return the arm, campaign and channel in a name from `account_name`."""
    arm, campaign, channel, _ = orjson.loads(name)
    return arm, campaign, channel


def highest_cost(limit: AccountLimit, cost_cap: Mapping[str, float]) -> float:
    """Return the highest cost of an exposure that draws on an account, currency units."""
    if limit.channel == "*":
        return max(cost_cap.values(), default=0.0)
    return cost_cap.get(limit.channel, 0.0)


def spare(limit: AccountLimit, asks: bool, grain: float) -> float:
    """Return by how many currency units an account's limit in the ledger exceeds its part.

    An arm that ignores the price gets no spare, because it would always spend the spare. With two arms, one arm's spare
    takes at most a fraction MOST_SPARE of the other's part, or (cost of SPARE exposures) / budget if less.
    """
    if limit.pacing is None or not asks or not limit.part:
        return 0.0
    return (1.0 - limit.part) * min(SPARE * grain, MOST_SPARE * limit.limit / limit.part)


@dataclass(frozen=True)
class Target:
    """A paced account and the terms of its plan."""

    limit: AccountLimit
    terms: str  # from `terms_of`
    grain: float  # highest cost of an exposure, currency units
    asks: bool  # whether its arm has an endpoint, and so receives the price

    @property
    def budget(self) -> tuple[str, str, Period]:
        """Campaign, channel and period, which all parts of a budget have in common."""
        return self.limit.campaign, self.limit.channel, self.limit.period

    @property
    def planned_share(self) -> float:
        """Fraction of the ledger's limit that the plan spends: all except `spare`."""
        part, more = self.limit.limit, spare(self.limit, self.asks, self.grain)
        return part / (part + more) if more else 1.0


class Kept(NamedTuple):
    """The state of an account that is stored in the ledger and survives a restart."""

    state: State  # the controller's state after the last update
    price: float  # gain that each currency unit of the account must earn
    began: float  # beginning of the period, seconds since 1970, or COUNTED
    terms: str  # text of the limit, part and pacing that define the plan
    since: float  # start of the plan, by the account's clock
    before: float  # currency units spent before the start of the plan
    stated: float | None = None  # first price in the experiment file
    learned: float = 0.0  # currency units spent since the file has had that first price
    written: float = 0.0  # time of the last write, seconds since 1970

    @property
    def to_follow(self) -> float:
        """Price that smaller accounts of the budget begin with: the current price, if it is plausible.

        If there is more money than can be spent, the multiplier falls to 0. But no account can begin with a price of 0,
        so a lower bound of the multiplier applies here.
        """
        factor = self.state.multiplier
        return self.state.price_unit * (max(factor, 1.0 / _PLAUSIBLE) if factor < _PLAUSIBLE else 1.0)

    def worth_writing(self, written: Kept | None, now: float) -> bool:
        """Return whether this state differs enough from the stored one to be written for all routers."""
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
    """The clock of a paced account: seconds, or a count of opportunities."""

    began: float  # beginning of the period, as in `Kept`
    schedule: Schedule  # planned spending, by this clock
    at: float  # current time of this clock
    counted: bool  # whether the clock counts opportunities
    open: bool  # whether spending is allowed now
    edge: float  # seconds until the next start or end of a period or of the spending time

    @classmethod
    def of_time(cls, limit: AccountLimit, pacing: Pacing, began: float, now: float) -> Clock:
        """Return the clock of a budget that is paced by time, in the ledger's seconds."""
        schedule = pacing.schedule(limit.period, limit.timezone, began, now)
        first, last = schedule.times[0], schedule.times[-1]
        at = min(max(now, first), last)  # the period may have ended since the balances were read
        edge = min((time - now for time in (first, last) if time > now), default=inf)
        return cls(first, schedule, at, False, limit.period != "total" or first <= now < last, edge)

    @classmethod
    def of_count(cls, limit: AccountLimit, opportunities: int, at: float, had: float) -> Clock:
        """Return the clock of a count: it ends after the arm's past opportunities (`at`) and its part of the rest."""
        left = max(opportunities - had, _GRACE * opportunities)
        return cls(COUNTED, Schedule.even(0.0, at + max(limit.part * left, 1.0)), at, True, True, inf)

    @property
    def interval(self) -> float:
        """Seconds until the next update; 0 for a budget for a count of opportunities: each opportunity updates it."""
        if self.counted:
            return 0.0
        return min(_UPDATE_SECONDS, _UPDATE_SHARE * (self.schedule.times[-1] - self.schedule.times[0]), self.edge)


def terms_of(limit: AccountLimit) -> str:
    """Return the terms of an account that come from the experiment file."""
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
    """Return an account after an update, and its distance from its plan (None: no money left, or spending is closed).

    `amounts` are the ledger's limit, and the sum of spent and reserved money (currency units). Both must belong to the
    clock's period. Spend before a stage change counts. `kept` is the stored state, possibly of another period. `first`
    is the multiplier and price unit with which a new plan begins. `largest` is the state of the budget's largest
    account. ValueError or OverflowError: the account can't be paced.
    """
    at, (amount, committed) = clock.at, amounts
    end = "" if clock.counted else clock.schedule.times[-1]  # an opportunity count would change with each update
    terms = f"{amount:.9g} {target.terms} {end}"
    here = State(at, committed, *first)
    stated, learned = target.limit.pacing.price if target.limit.pacing else None, committed
    if kept is not None and kept.stated == stated:
        of_before = kept.state.spent if kept.began == clock.began else 0.0
        learned = kept.learned + max(committed - of_before, 0.0)
    anew = (
        kept is None
        or (kept.began, kept.terms) != (clock.began, terms)
        or kept.state.at > at  # the clock was ahead and has been corrected
        or kept.since > at
        or committed < amount <= kept.before  # the account was full, and reservations have been released
    )
    # A new plan spreads the rest of the money over the rest of the time.
    state, since, before = (here, at, committed) if anew or kept is None else (kept.state, kept.since, kept.before)
    if largest is not None and learned < GRAINS * target.grain:
        state = replace(state, price_unit=largest.to_follow)
    pace, price = None, here.price_unit * STOP_MULTIPLIER
    if before >= amount:  # no money was left when the plan began
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
    """Return a new plan's multiplier and price unit: the account's last, or the file's price if it has changed."""
    assert limit.pacing is not None
    stated = limit.pacing.price
    if last is not None and stated in (None, last.stated):
        return last.state.multiplier, last.state.price_unit
    return None if stated is None else (1.0, stated)


class Forecasts:
    """Recent forecasts of the arms: expected reward per unit of expected cost. Their median is a first price."""

    def __init__(self) -> None:
        self._gains: deque[float] = deque(maxlen=5 * _FORECASTS)
        self._asked = 0

    def add(self, reward: float | None, cost: float | None) -> None:
        """Add an arm's expected reward and cost of an exposure; None if the arm did not answer or sent no forecast."""
        self._asked += 1
        if reward is not None and cost:
            self._gains.append(reward / cost)

    def usual(self) -> float | None:
        """Return the median; None if there are too few forecasts. ValueError: too few, even after _ASKED decisions."""
        found = median(self._gains) if len(self._gains) >= _FORECASTS else 0.0
        if 0.0 < found < inf:
            return found
        if self._asked < _ASKED:
            return None
        raise ValueError(messages.NO_FORECASTS())
