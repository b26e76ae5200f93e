"""The pacing controller: prices of budgets that follow what the ledger says is spent.

Every router reads the ledger every few seconds, or sooner where half a percent of a budget's opportunities have gone
by, updates the price of each paced account (`mtorl.policy.pacing`), and writes the new state back, unless another
router did so in between; then it takes that one's. So there is one sequence of updates however many routers there are,
and none of them is a leader that could fail. The time is the ledger's: by clocks of their own, of which one is some
seconds ahead, routers would see more time pass than there is, and spend accordingly. The state (`paced_state.py`) lies
in the ledger, beside the spend that it follows: a router that restarts goes on from there. Where the clock is the
number of opportunities, each router adds those that it has had since it last did.

Whatever changes the terms of an account (a stage, an amount, a pacing that is switched on, the first period of all),
its plan begins anew there: what is left of its money, over what is left of its time. Without that, an arm whose part
has grown would look far behind its schedule, and one whose part has shrunk far ahead.

An exposure draws on every account that matches it, so its price is the sum of theirs (each is the dual of its own
budget). A channel without a paced account keeps the model's own price; so do all until the price to begin with is
known: if the experiment file does not say it, it is what the arms' first forecasts say that a currency unit gains, in
the budget's campaign, if it is of one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol
from zlib import crc32

from mtorl.experiment.budget import AccountLimit
from mtorl.experiment.layers import Experiments
from mtorl.policy.pacing import MAX_MULTIPLIER, STOP_MULTIPLIER, Pace, Plan, Schedule, State
from mtorl.policy.schedule import Pacing
from serving.ledger import Balance, Ledger
from serving.router.flow.paced_state import COUNTED, Kept, PacedState

log = logging.getLogger(__name__)

_UPDATE_SECONDS = 5.0  # between updates, at most
_UPDATE_SHARE = 0.005  # of a plan's clock: likewise
_FORECASTS = 20  # until they say what price to begin with, in each campaign with a budget of its own
_ASKED = 500  # decisions; likewise at the latest
_TOO_LOW = (
    f"{MAX_MULTIPLIER:g} times the price to begin with is still too low: give a higher `price` in its `pacing`; an "
    "endpoint that ignores its price needs a budget with `period: hour`"
)
_NO_PRICE = (
    "its policy looks at no price, so its money goes first come, first served: to spread it over the day, give a "
    "budget with `period: hour` beside this one, or let the policy expose less (docs/experiments.md, Pacing)"
)
_GRACE = 0.01  # of the opportunities expected: if there are more, money that is left is spread over so many again

Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any
Opportunities = Counter[tuple[str, str]]  # by arm and campaign; "*" is any


class Forecast(Protocol):
    """What an arm expects of an exposure on the channel that it chose."""

    @property
    def expected_reward(self) -> float | None:
        """Gain; None: it does not say."""

    @property
    def expected_cost(self) -> float | None:
        """Currency units; likewise."""


class Pacer:
    """Keeps the prices in force.

    `refresh` runs in a thread, and `prices` is asked by lanes; everything else on the event loop.

    Args:
        ledger: The ledger whose accounts are paced; its calls block.
        cost_cap: Highest possible cost of an exposure in each channel, currency units.
        clock: Seconds, of which only differences count: when the next update is due.

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
        self._intervals: Mapping[tuple[str, str], float] = {}  # opportunities between updates; of what is counted
        self._opportunities: Opportunities = Counter()  # since the last update
        self._forecasts: Mapping[str, _Forecasts] = {"*": _Forecasts()}  # by campaign; "*" is any
        self._update_at = 0.0
        self.faults: Sequence[str] = ()
        self._shown: Sequence[_Account] = ()

    def count(self, arm: str, campaign: str, forecast: Forecast | None) -> None:
        """Count an opportunity of an arm in a campaign, and what the arm expected of it (None: it did not say)."""
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
        """Read the state that all routers share, and update it if it is time.

        Args:
            experiments: The experiments in force; they say which budgets are paced, and how.
            balances: All accounts, just read.

        Raises:
            LedgerUnavailable: The ledger does not answer; the prices stay as they are.
        """
        with self._counting:
            counted = self._opportunities.copy()
        limits = [limit for limit in experiments.accounts() if limit.pacing is not None]
        version, text = self._ledger.memory() if limits else (0, "")
        now = self._ledger.now() if limits else 0.0  # after the memory, in which another router may just have written
        state = PacedState.parse(text)
        accounts, faults = self._accounts(limits, balances, state, counted, now)
        if any(account.due for account in accounts):
            updated = state.after({account.clock.key: account.kept for account in accounts}, now)
            if self._ledger.remember(version, updated.text()):
                state = updated
                with self._counting:  # what was counted meanwhile stays, and what is of an account without a state yet
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
        """The accounts to pace, and what is wrong with others: each by itself, so that one does not stop all.

        The ledger says which period it is, and how much the arm may spend in it: spend of one period must not be
        compared with the plan of another, and what was spent before a change of stage counts.
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
        """Multiplier and price unit to begin with where nothing else says them; None: not known yet.

        Raises:
            ValueError: Many decisions have not told it.
        """
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
        """Price of each paced channel for an exposure of an arm in a campaign; None: all have the model's own."""
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
        """How spend compares with the plans of accounts that have something left, where it is the time to spend."""
        shown = [account for account in self._shown if account.clock.open]
        return [
            Pace.of(*one.scope, one.limit.period, one.plan, one.kept.state) for one in shown if one.plan is not None
        ]

    def by_arm(self) -> dict[str, float]:
        """Largest price of each arm, for a metric."""
        largest: dict[str, float] = {}
        for (arm, _, _), price in self._prices.items():
            largest[arm] = max(price, largest.get(arm, 0.0))
        return largest


@dataclass(frozen=True)
class _Clock:
    """What the clock of a paced account says.

    Attributes:
        key: Of the account in this period.
        schedule: When to spend, by this clock.
        at: What it says now.
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
        """As with the money after a change of parts: what the arm has had, and its new part of what is left."""
        key = PacedState.key(limit, COUNTED)
        at = new + (state.kept[key].state.at if key in state.kept else 0.0)
        left = max(opportunities - had, _GRACE * opportunities)
        return cls(key, Schedule.even(0.0, at + max(limit.part * left, 1.0)), at, new, True)

    @property
    def interval(self) -> float:
        """Longest one between two updates."""
        share = _UPDATE_SHARE * (self.schedule.times[-1] - self.schedule.times[0])
        return min(_UPDATE_SECONDS, share) if self.new is None else share


@dataclass(frozen=True)
class _Account:
    """A paced account whose price to begin with is known.

    Attributes:
        limit: The account.
        clock: Its clock.
        plan: When to spend what; None: nothing is left.
        kept: What is to be kept of it from now on.
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
        end = "" if clock.new is not None else clock.schedule.times[-1]  # the other one moves all the time
        terms = f"{balance.limit:.9g} {limit.part:.9g} {crc32(pacing.encode())} {end}"
        freed = before is not None and committed < balance.limit <= before.before  # reservations that held everything
        if before is None or before.terms != terms or before.state.at > at or before.since > at or freed:
            # New terms, or a clock that was ahead: what is left, over what is left of the time.
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
        """Whose price it is."""
        return self.limit.arm, self.limit.campaign, self.limit.channel

    @property
    def at_its_highest(self) -> bool:
        """Whether the price can hardly rise any more."""
        return self.kept.state.multiplier > MAX_MULTIPLIER / 2

    def price(self, state: State) -> float:
        """Gain that one currency unit must earn."""
        if self.plan is None or not self.clock.open:
            return state.price_unit * STOP_MULTIPLIER
        return self.plan.price(state)


def _first(limit: AccountLimit, last: Kept | None) -> tuple[float, float] | None:
    """Multiplier and price unit to begin with; None: nobody has said it.

    A new period begins with the price that the last one ended with, unless the file says another one than it did.
    """
    assert limit.pacing is not None
    stated = limit.pacing.price
    if last is not None and stated in (None, last.state.price_unit):
        return last.state.multiplier, last.state.price_unit
    return None if stated is None else (1.0, stated)


class _Forecasts:
    """What arms say that a currency unit gains."""

    def __init__(self) -> None:
        self._gains: deque[float] = deque(maxlen=5 * _FORECASTS)
        self._asked = 0

    def add(self, forecast: Forecast | None) -> None:
        """Add that of a decision; None: there is none."""
        self._asked += 1
        if forecast is None or forecast.expected_reward is None or not forecast.expected_cost:
            return
        self._gains.append(forecast.expected_reward / forecast.expected_cost)

    def usual(self) -> float | None:
        """Of the median, a few absurd forecasts are not felt; None: there are too few so far.

        Raises:
            ValueError: There should be enough by now.
        """
        found = median(self._gains) if len(self._gains) >= _FORECASTS else 0.0
        if 0.0 < found < float("inf"):
            return found
        if self._asked < _ASKED:
            return None
        raise ValueError("the arms don't say what their money gains (expected_reward, expected_cost): give a `price`")
