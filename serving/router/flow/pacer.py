"""The pacing controller: prices of budgets that follow the spend in the ledger.

Every few seconds, or after half a percent of a budget's opportunities, each router updates the price of each paced
account (`mtorl.policy.pacing`) and writes the state (`paced_state.py`) to the ledger. If another router has written in
between, it takes that state instead. So all routers share one sequence of updates, without a leader that could fail,
and a restarted router goes on from there. The time is the ledger's: by clocks that differ, routers would see more time
pass than there is, and spend accordingly. If the clock is the number of opportunities, each router adds its own.

If the terms of an account change (a stage, an amount, pacing switched on, its first period), its plan begins anew: the
rest of its money, over the rest of its time. Otherwise an arm whose part has grown would look far behind its schedule,
and one whose part has shrunk far ahead.

An exposure draws on every account that matches it, so its price is the sum of their prices (each is the dual of its own
budget). A channel without a paced account keeps the model's own price; so do all until the first price is known. The
experiment file states it, or it is the median gain of a currency unit in the arms' first forecasts for the campaign.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from zlib import crc32

from mtorl.experiment.budget import AccountLimit
from mtorl.experiment.layers import Experiments
from mtorl.policy.pacing import MAX_MULTIPLIER, STOP_MULTIPLIER, Pace, Plan, Schedule, State
from mtorl.policy.schedule import Pacing
from serving.ledger import Balance, Ledger
from serving.router.flow.arm_answers import ArmAnswer
from serving.router.flow.paced_state import COUNTED, Kept, PacedState

log = logging.getLogger(__name__)

_UPDATE_SECONDS = 5.0  # between updates, at most
_UPDATE_SHARE = 0.005  # of a plan's clock: likewise
_FORECASTS = 20  # until the first price follows from them, in each campaign with a budget of its own
_ASKED = 500  # decisions after which there should be enough forecasts
_TOO_LOW = (
    f"{MAX_MULTIPLIER:g} times the price to begin with is still too low: give a higher `price` in its `pacing`; an "
    "endpoint that ignores its price needs a budget with `period: hour`"
)
_NO_PRICE = (
    "its policy looks at no price, so its money goes first come, first served: to spread it over the day, give a "
    "budget with `period: hour` beside this one, or let the policy expose less (docs/experiments.md, Pacing)"
)
_GRACE = 0.01  # of the opportunities expected: if there are more, the rest of the money is spread over so many again

Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any
Opportunities = Counter[tuple[str, str]]  # by arm and campaign; "*" is any


class Pacer:
    """Keeps the prices in force.

    `refresh` runs in a thread, lanes read `prices`, and everything else runs on the event loop.

    Args:
        cost_cap: Highest possible cost of an exposure in each channel, currency units.
        clock: Seconds of any origin; says when an update is due.

    Attributes:
        faults: Accounts that can't be paced, and why; their prices stay as they are.
    """

    def __init__(
        self, ledger: Ledger, cost_cap: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._cost_cap = dict(cost_cap)
        self._clock = clock
        self._prices: Mapping[Scope, float] = {}
        self._counting = threading.Lock()
        self._intervals: Mapping[tuple[str, str], float] = {}  # opportunities between updates, of counted budgets
        self._opportunities: Opportunities = Counter()  # since the last update
        self._forecasts: Mapping[str, _Forecasts] = {"*": _Forecasts()}  # by campaign; "*" is any
        self._update_at = 0.0
        self.faults: Sequence[str] = ()
        self._shown: Sequence[_Account] = ()

    def count(self, arm: str, campaign: str, forecast: ArmAnswer | None) -> None:
        """Count an opportunity of an arm in a campaign, and the arm's forecast."""
        with self._counting:
            for scope in ((arm, campaign), (arm, "*")):
                if scope in self._intervals:
                    self._opportunities[scope] += 1
            for of in dict.fromkeys((campaign, "*")):
                if of in self._forecasts:
                    self._forecasts[of].add(forecast)

    def due(self) -> bool:
        """Whether it is time for an update."""
        return self._clock() >= self._update_at or any(
            self._opportunities[scope] >= most for scope, most in self._intervals.items()
        )

    def refresh(self, experiments: Experiments, balances: Sequence[Balance]) -> None:
        """Read the shared state, and update it if it is time; `balances` are all accounts, just read.

        Raises:
            LedgerUnavailable: The ledger does not answer; the prices stay as they are.
        """
        with self._counting:
            counted = self._opportunities.copy()
        limits = [limit for limit in experiments.accounts() if limit.pacing is not None]
        version, text = self._ledger.memory() if limits else (0, "")
        now = self._ledger.now() if limits else 0.0  # after the memory, which another router may just have written
        state = PacedState.parse(text)
        accounts, faults = self._accounts(limits, balances, state, counted, now)
        if any(account.due for account in accounts):
            updated = state.after({account.clock.key: account.kept for account in accounts}, now)
            if self._ledger.remember(version, updated.text()):
                state = updated
                with self._counting:  # keeps what was counted meanwhile, and counts of accounts without a state yet
                    known = {(a.limit.arm, a.limit.campaign) for a in accounts if a.clock.new is not None}
                    self._opportunities -= Counter({of: n for of, n in counted.items() if of in known})
            else:  # another router was first
                state = PacedState.parse(self._ledger.memory()[1])
        self._publish(limits, accounts, faults.keys(), state)
        for account in accounts:
            if account.at_its_highest:
                faults[account.scope] = _TOO_LOW if experiments.asks(account.limit.arm) else _NO_PRICE
        self.faults = tuple(f"arm {arm}, campaign {c}, channel {h}: {why}" for (arm, c, h), why in faults.items())

    def _accounts(
        self,
        limits: Sequence[AccountLimit],
        balances: Sequence[Balance],
        state: PacedState,
        counted: Opportunities,
        now: float,
    ) -> tuple[list[_Account], dict[Scope, str]]:
        """The accounts to pace, and the faults of others.

        Period and limit are the ledger's: spend of one period must not be compared with the plan of another, and spend
        before a change of stage counts.
        """
        found = {(b.arm, b.campaign, b.channel, b.period): b for b in balances}
        had = state.counts()
        for limit in limits:
            budget = limit.campaign, limit.channel
            had[budget] = had.get(budget, 0.0) + counted[limit.arm, limit.campaign]
        accounts, faults = [], dict[Scope, str]()
        for limit in limits:
            balance = found.get((limit.arm, limit.campaign, limit.channel, limit.period))
            if balance is None or limit.pacing is None:
                continue
            caps = self._cost_cap if limit.channel == "*" else {limit.channel: self._cost_cap.get(limit.channel, 0.0)}
            try:
                if (most := limit.pacing.opportunities) is not None:
                    new, all_had = counted[limit.arm, limit.campaign], had[limit.campaign, limit.channel]
                    clock = _Clock.of_count(limit, most, state, new, all_had)
                else:
                    clock = _Clock.of_time(limit, limit.pacing, float(balance.start or now), now)
                first = _first(limit, state.kept.get(clock.key) or state.last(limit)) or self._usual(limit.campaign)
                if first is None:
                    continue
                account = _Account.of(limit, clock, balance, state, first, max(caps.values(), default=0.0))
            except (ValueError, OverflowError) as error:
                scope = limit.arm, limit.campaign, limit.channel
                faults[scope] = str(error)
                log.warning("not paced: %s: %s", scope, error, extra={"arm": limit.arm})
                continue
            accounts.append(account)
        return accounts, faults

    def _usual(self, campaign: str) -> tuple[float, float] | None:
        """First multiplier and price unit by forecasts; None: too few yet. ValueError: there should be enough."""
        with self._counting:
            forecasts = self._forecasts.get(campaign)
            found = forecasts.usual() if forecasts else None
        return None if found is None else (1.0, found)

    def _publish(
        self,
        limits: Sequence[AccountLimit],
        accounts: Sequence[_Account],
        faults: Collection[Scope],
        state: PacedState,
    ) -> None:
        with self._counting:
            paced = {"*", *(limit.campaign for limit in limits)}
            self._forecasts = {campaign: self._forecasts.get(campaign) or _Forecasts() for campaign in paced}
        sums: dict[Scope, float] = {}
        for account in accounts:
            kept = state.kept.get(account.clock.key, account.kept)
            scope = account.scope
            sums[scope] = sums.get(scope, 0.0) + account.price(kept.state)
        self._prices = sums | {scope: self._prices[scope] for scope in faults if scope in self._prices}
        self._shown = accounts
        timed = [account.clock.interval for account in accounts if account.clock.new is None]
        self._update_at = self._clock() + min(timed, default=float("inf"))
        intervals = {(a.limit.arm, a.limit.campaign): a.clock.interval for a in accounts if a.clock.new is not None}
        counting = {(x.arm, x.campaign) for x in limits if x.pacing is not None and x.pacing.opportunities is not None}
        self._intervals = {scope: intervals.get(scope, float("inf")) for scope in counting}

    def prices(self, arm: str, campaign: str) -> dict[str, float] | None:
        """Price of each paced channel for an exposure of an arm in a campaign; None: no channel is paced."""
        if not self._prices:
            return None
        prices: dict[str, float] = {}
        for channel in self._cost_cap:
            scopes = [(arm, c, h) for c in dict.fromkeys((campaign, "*")) for h in (channel, "*")]
            paced = [self._prices[scope] for scope in scopes if scope in self._prices]
            if paced:
                prices[channel] = sum(paced)
        return prices or None

    def pace(self) -> list[Pace]:
        """Spend and plan of accounts that have money left, while it is the time to spend."""
        shown = [account for account in self._shown if account.clock.open]
        return [
            Pace.of(*one.scope, one.limit.period, one.plan, one.kept.state) for one in shown if one.plan is not None
        ]

    def by_arm(self) -> dict[str, float]:
        """Largest price of each arm."""
        largest: dict[str, float] = {}
        for (arm, _, _), price in self._prices.items():
            largest[arm] = max(price, largest.get(arm, 0.0))
        return largest


@dataclass(frozen=True)
class _Clock:
    """The clock of a paced account.

    Attributes:
        schedule: When to spend, by this clock.
        at: Present time of this clock.
        new: Opportunities since the last update, if they are the clock; None: time is.
        open: Whether it is the time to spend.
    """

    key: str
    schedule: Schedule
    at: float
    new: int | None
    open: bool

    @classmethod
    def of_time(cls, limit: AccountLimit, pacing: Pacing, began: float, now: float) -> _Clock:
        schedule = pacing.schedule(limit.period, limit.timezone, began, now)
        first, last = schedule.times[0], schedule.times[-1]
        at = min(max(now, first), last)  # the period may have ended since the balances were read
        return cls(PacedState.key(limit, first), schedule, at, None, limit.period != "total" or first <= now < last)

    @classmethod
    def of_count(cls, limit: AccountLimit, opportunities: int, state: PacedState, new: int, had: float) -> _Clock:
        """The schedule ends at the arm's past opportunities and its part of the rest, as its money does."""
        key = PacedState.key(limit, COUNTED)
        at = new + (state.kept[key].state.at if key in state.kept else 0.0)
        left = max(opportunities - had, _GRACE * opportunities)
        return cls(key, Schedule.even(0.0, at + max(limit.part * left, 1.0)), at, new, True)

    @property
    def interval(self) -> float:
        share = _UPDATE_SHARE * (self.schedule.times[-1] - self.schedule.times[0])
        return min(_UPDATE_SECONDS, share) if self.new is None else share


@dataclass(frozen=True)
class _Account:
    """A paced account whose first price is known.

    Attributes:
        plan: When to spend what; None: nothing is left.
        kept: Its state from now on.
        due: Whether it is time for an update.
    """

    limit: AccountLimit
    clock: _Clock
    plan: Plan | None
    kept: Kept
    due: bool

    @classmethod
    def of(
        cls,
        limit: AccountLimit,
        clock: _Clock,
        balance: Balance,
        state: PacedState,
        first: tuple[float, float],
        grain: float,
    ) -> _Account:
        at, committed = clock.at, balance.spent + balance.reserved
        before = state.kept.get(clock.key)
        here = State(at, committed, *first)
        pacing = limit.pacing.model_dump_json() if limit.pacing else ""
        end = "" if clock.new is not None else clock.schedule.times[-1]  # the end of a count moves all the time
        terms = f"{balance.limit:.9g} {limit.part:.9g} {crc32(pacing.encode())} {end}"
        freed = before is not None and committed < balance.limit <= before.before  # reservations that held everything
        if before is None or before.terms != terms or before.state.at > at or before.since > at or freed:
            # New terms, or a clock that was ahead: the rest of the money, over the rest of the time.
            before, due = Kept(here, terms, since=at, before=committed, touched=0.0), True
        elif clock.new is None:
            due = before.state.at <= at - clock.interval
        else:
            due = clock.new > 0
        plan = None
        if before.before < balance.limit:
            plan = Plan(balance.limit, clock.schedule, before.since, before.before, grain)
        moved = plan.update(before.state, at, committed) if plan else here
        return cls(limit, clock, plan, replace(before, state=moved), due)

    @property
    def scope(self) -> Scope:
        return self.limit.arm, self.limit.campaign, self.limit.channel

    @property
    def at_its_highest(self) -> bool:
        return self.kept.state.multiplier > MAX_MULTIPLIER / 2

    def price(self, state: State) -> float:
        if self.plan is None or not self.clock.open:
            return state.price_unit * STOP_MULTIPLIER
        return self.plan.price(state)


def _first(limit: AccountLimit, last: Kept | None) -> tuple[float, float] | None:
    """First multiplier and price unit: those of the last period, unless the file has another price now."""
    assert limit.pacing is not None
    stated = limit.pacing.price
    if last is not None and stated in (None, last.state.price_unit):
        return last.state.multiplier, last.state.price_unit
    return None if stated is None else (1.0, stated)


class _Forecasts:
    """Gain of a currency unit, as arms forecast it."""

    def __init__(self) -> None:
        self._gains: deque[float] = deque(maxlen=5 * _FORECASTS)
        self._asked = 0

    def add(self, forecast: ArmAnswer | None) -> None:
        self._asked += 1
        if forecast is None or forecast.expected_reward is None or not forecast.expected_cost:
            return
        self._gains.append(forecast.expected_reward / forecast.expected_cost)

    def usual(self) -> float | None:
        """The median, robust to a few absurd forecasts; None: too few yet. ValueError: there should be enough."""
        found = median(self._gains) if len(self._gains) >= _FORECASTS else 0.0
        if 0.0 < found < float("inf"):
            return found
        if self._asked < _ASKED:
            return None
        raise ValueError("the arms don't say what their money gains (expected_reward, expected_cost): give a `price`")
