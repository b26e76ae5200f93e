"""A paced account: its clock, its plan, and the state that one router keeps in the ledger for all.

If the terms of an account change (a stage, an amount, pacing switched on, its first period), its plan begins anew: the
rest of its money, over the rest of its time. Otherwise an arm whose part has grown would look far behind its schedule,
and one whose part has shrunk far ahead.

The parts of a budget differ in size, and a small one must not be paced worse: arms would differ by that.

- *Spare.* An account that stops at its part leaves something over on most days, and can't make up for it on others. So
  the ledger's limit of an arm lies up to SPARE exposures above its part, times what the others have of the budget. The
  plan spends the part, and the account of all arms still binds the sum.
- *First price.* Until an account has spent as much as GRAINS exposures cost at most, the price to begin with is the
  present price of the budget's largest account, which finds it sooner; its own multiplier corrects that.

`benchmarks/experiments.py` measures both.
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
"""In place of the beginning of a period: the clock is the number of opportunities."""
Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any
SPARE = 3.0  # exposures at their highest cost
MOST_SPARE = 0.05  # of the whole budget: at most as much

_UPDATE_SECONDS = 5.0  # between updates, at most
_UPDATE_SHARE = 0.005  # of a plan's clock: likewise
_GRACE = 0.01  # of the opportunities expected: if there are more, the rest of the money is spread over so many again
_PRICE_MOVED = 0.01  # a smaller relative change of a price is not worth a write
_WRITTEN_SECONDS = 60.0  # seconds after which a spending account is stored, at any price
_IDLE_SECONDS = 86_400.0  # after which any account is
_PLAUSIBLE = 10.0  # times the price to begin with: beyond, an arm probably looks at no price
_FORECASTS = 20  # until the first price follows from them, in each campaign with a budget of its own
_ASKED = 500  # decisions after which there should be enough forecasts


def account_name(limit: AccountLimit) -> str:
    """Name of an account in the ledger's pacing store."""
    return orjson.dumps([limit.arm, limit.campaign, limit.channel, limit.period]).decode()


def scope_of(name: str) -> Scope:
    """Arm, campaign and channel of a name that `account_name` made."""
    arm, campaign, channel, _ = orjson.loads(name)
    return arm, campaign, channel


def highest_cost(limit: AccountLimit, cost_cap: Mapping[str, float]) -> float:
    """Highest cost of an exposure that draws on an account, currency units."""
    if limit.channel == "*":
        return max(cost_cap.values(), default=0.0)
    return cost_cap.get(limit.channel, 0.0)


def spare(limit: AccountLimit, asks: bool, grain: float) -> float:
    """Currency units that an account's limit in the ledger lies above its part.

    None for an arm that looks at no price: it would spend them each time. With two arms, neither can lose more of its
    part by the other's spare than SPARE exposures, or MOST_SPARE, are of the whole budget.
    """
    if limit.pacing is None or not asks or not limit.part:
        return 0.0
    return (1.0 - limit.part) * min(SPARE * grain, MOST_SPARE * limit.limit / limit.part)


@dataclass(frozen=True)
class Target:
    """An account to be paced."""

    limit: AccountLimit
    terms: str  # `terms_of`
    grain: float  # highest cost of an exposure, currency units
    asks: bool  # whether its arm has an endpoint

    @property
    def budget(self) -> tuple[str, str, Period]:
        """Campaign, channel and period: the same for all parts of a budget."""
        return self.limit.campaign, self.limit.channel, self.limit.period

    @property
    def planned_share(self) -> float:
        """Share of the ledger's limit that is planned to be spent: all but `spare`."""
        part, more = self.limit.limit, spare(self.limit, self.asks, self.grain)
        return part / (part + more) if more else 1.0


class Kept(NamedTuple):
    """State of an account that survives a restart."""

    state: State  # the controller's, after the last update
    price: float  # gain that a currency unit of the account must earn
    began: float  # the period, seconds since 1970, or COUNTED
    terms: str  # limit, part and pacing that the plan was made for
    since: float  # when the plan begins, by its clock
    before: float  # currency units spent by then
    stated: float | None = None  # the first price that the file gives
    learned: float = 0.0  # currency units spent since that price
    written: float = 0.0  # seconds since 1970

    @property
    def to_follow(self) -> float:
        """Price for smaller accounts of the budget to begin with: the present one, unless it can hardly be right.

        With more money than can be spent it is 0, which no account can begin with.
        """
        factor = self.state.multiplier
        return self.state.price_unit * (max(factor, 1.0 / _PLAUSIBLE) if factor < _PLAUSIBLE else 1.0)

    def worth_writing(self, written: Kept | None, now: float) -> bool:
        """Whether other routers, and the next one that paces, must know this instead of what is written."""
        if written is None or (written.began, written.terms) != (self.began, self.terms):
            return True
        if abs(self.price - written.price) > _PRICE_MOVED * written.price:
            return True
        age = abs(now - written.written)
        return age > _IDLE_SECONDS or (age > _WRITTEN_SECONDS and self.state.spent != written.state.spent)


KEPT = TypeAdapter(Kept, config=ConfigDict(allow_inf_nan=False))
"""For the ledger, as JSON."""


@dataclass(frozen=True)
class Clock:
    """The clock of a paced account."""

    began: float  # as in `Kept`
    schedule: Schedule  # when to spend, by this clock
    at: float  # present time of this clock
    counted: bool  # whether it is the number of opportunities
    open: bool  # whether it is the time to spend
    edge: float  # seconds until a period, or the time to spend, begins or ends

    @classmethod
    def of_time(cls, limit: AccountLimit, pacing: Pacing, began: float, now: float) -> Clock:
        """Clock of a budget that is paced by time, in the ledger's seconds."""
        schedule = pacing.schedule(limit.period, limit.timezone, began, now)
        first, last = schedule.times[0], schedule.times[-1]
        at = min(max(now, first), last)  # the period may have ended since the balances were read
        edge = min((time - now for time in (first, last) if time > now), default=inf)
        return cls(first, schedule, at, False, limit.period != "total" or first <= now < last, edge)

    @classmethod
    def of_count(cls, limit: AccountLimit, opportunities: int, at: float, had: float) -> Clock:
        """The schedule ends at the arm's past opportunities and its part of the rest, as its money does."""
        left = max(opportunities - had, _GRACE * opportunities)
        return cls(COUNTED, Schedule.even(0.0, at + max(limit.part * left, 1.0)), at, True, True, inf)

    @property
    def interval(self) -> float:
        """Seconds until the next update; a budget for a count of opportunities updates at each one."""
        if self.counted:
            return 0.0
        return min(_UPDATE_SECONDS, _UPDATE_SHARE * (self.schedule.times[-1] - self.schedule.times[0]), self.edge)


def terms_of(limit: AccountLimit) -> str:
    """The terms of an account that are in the experiment file."""
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
    """An account after an update, and its distance from its plan (None: nothing is left, or it is not the time).

    `amounts` are the limit, and what is spent and reserved, currency units. Period and limit are the ledger's: spend of
    one period must not be compared with the plan of another, and spend before a change of stage counts. `kept` may be
    of another period; `first` are multiplier and price unit to begin with; `largest` is the budget's largest account.
    Raises ValueError or OverflowError if it can't be paced.
    """
    at, (amount, committed) = clock.at, amounts
    end = "" if clock.counted else clock.schedule.times[-1]  # the end of a count moves all the time
    terms = f"{amount:.9g} {target.terms} {end}"
    here = State(at, committed, *first)
    stated, learned = target.limit.pacing.price if target.limit.pacing else None, committed
    if kept is not None and kept.stated == stated:
        of_before = kept.state.spent if kept.began == clock.began else 0.0
        learned = kept.learned + max(committed - of_before, 0.0)
    anew = (
        kept is None
        or (kept.began, kept.terms) != (clock.began, terms)
        or kept.state.at > at  # a clock that was ahead
        or kept.since > at
        or committed < amount <= kept.before  # reservations that held everything are free again
    )
    # Anew: the rest of the money, over the rest of the time.
    state, since, before = (here, at, committed) if anew or kept is None else (kept.state, kept.since, kept.before)
    if largest is not None and learned < GRAINS * target.grain:
        state = replace(state, price_unit=largest.to_follow)
    pace, price = None, here.price_unit * STOP_MULTIPLIER
    if before >= amount:  # nothing is left
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
    """First multiplier and price unit: those of the last update, unless the file has another price now."""
    assert limit.pacing is not None
    stated = limit.pacing.price
    if last is not None and stated in (None, last.stated):
        return last.state.multiplier, last.state.price_unit
    return None if stated is None else (1.0, stated)


class Forecasts:
    """Gain of a currency unit, as arms forecast it."""

    def __init__(self) -> None:
        self._gains: deque[float] = deque(maxlen=5 * _FORECASTS)
        self._asked = 0

    def add(self, reward: float | None, cost: float | None) -> None:
        """Add what an arm expects of an opportunity; None: it does not say, or did not answer."""
        self._asked += 1
        if reward is not None and cost:
            self._gains.append(reward / cost)

    def usual(self) -> float | None:
        """The median, robust to a few absurd forecasts; None: too few yet. ValueError: there should be enough."""
        found = median(self._gains) if len(self._gains) >= _FORECASTS else 0.0
        if 0.0 < found < inf:
            return found
        if self._asked < _ASKED:
            return None
        raise ValueError(messages.NO_FORECASTS())
