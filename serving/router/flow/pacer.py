"""The pacing controller: prices of budgets that follow what the ledger says is spent.

Every router reads the ledger every few seconds, or sooner where half a percent of a budget's opportunities have gone
by, updates the price of each paced account (`mtorl.policy.pacing`), and writes the new state back, unless another
router did so in between; then it takes that one's. So there is one sequence of updates however many routers there are,
and none of them is a leader that could fail. The state lies in the ledger, beside the spend that it follows: a router
that restarts goes on from there. Where the clock is the number of opportunities, each router adds those that it has had
since it last did.

An exposure draws on every account that matches it, so its price is the sum of theirs (each is the dual of its own
budget). A channel without a paced account keeps the model's own price; so do all of an arm until the price to begin
with is known: if the experiment file does not say it, it is the gain that the arm expects for each currency unit.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mtorl.experiment.experiment import AccountLimit, Experiment
from mtorl.policy.pacing import Plan, State
from serving.ledger import Balance, Ledger

log = logging.getLogger(__name__)

_UPDATE_SECONDS = 5.0  # between updates, at most
_UPDATE_SHARE = 0.005  # of a plan's clock: likewise
_FORECASTS = 20  # of an arm, until they say what price to begin with
_GRACE = 0.01  # of the opportunities expected: if there are more, money that is left is spread over so many again

Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any
Opportunities = Counter[tuple[str, str]]  # by arm and campaign; "*" is any
Forecasts = tuple[int, float, float]  # how many, their gain and their cost


class Forecast(Protocol):
    """What an arm expects of an exposure on the channel that it chose."""

    @property
    def expected_reward(self) -> float:
        """Gain."""

    @property
    def expected_cost(self) -> float:
        """Currency units."""


class Pacer:
    """Keeps the prices in force.

    `refresh` runs in a thread; everything else on the event loop.

    Args:
        ledger: The ledger whose accounts are paced; its calls block.
        channels: Channels of the data set.
        clock: Seconds since 1970.
    """

    def __init__(self, ledger: Ledger, channels: Iterable[str], clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._channels = tuple(channels)
        self._clock = clock
        self._prices: Mapping[Scope, float] = {}
        self._counting = threading.Lock()
        self._intervals: Mapping[tuple[str, str], float] = {}  # opportunities between updates; of what is counted
        self._opportunities: Opportunities = Counter()  # since the last update
        self._forecasts: dict[str, Forecasts] = {}  # by arm
        self._update_at = 0.0

    def count(self, arm: str, campaign: str, forecast: Forecast | None) -> None:
        """Count an opportunity of an arm in a campaign, and what the arm expected of it (None: it did not say)."""
        with self._counting:
            for scope in ((arm, campaign), (arm, "*")):
                if scope in self._intervals:
                    self._opportunities[scope] += 1
            if forecast is not None:
                number, gain, cost = self._forecasts.get(arm, (0, 0.0, 0.0))
                self._forecasts[arm] = number + 1, gain + forecast.expected_reward, cost + forecast.expected_cost

    def due(self) -> bool:
        """Whether it is time for an update."""
        return self._clock() >= self._update_at or any(
            self._opportunities[scope] >= most for scope, most in self._intervals.items()
        )

    def refresh(self, experiment: Experiment, balances: Sequence[Balance]) -> None:
        """Read the state that all routers share, and update it if it is time.

        Args:
            experiment: The experiment in force; it says which budgets are paced, and how.
            balances: All accounts, just read.

        Raises:
            LedgerUnavailable: The ledger does not answer; the prices stay as they are.
        """
        now = self._clock()
        with self._counting:
            counted, forecasts = self._opportunities.copy(), dict(self._forecasts)
        limits = [limit for limit in experiment.accounts() if limit.pacing is not None]
        version, text = self._ledger.memory() if limits else (0, "")
        states = _states(text)
        paced = _paced(limits, now, balances, states, counted)
        before = {account.key: account.before(states, forecasts) for account in paced}
        known = [account for account in paced if before[account.key] is not None]
        if any(account.is_due(states, counted, now) for account in known):
            updated = {a.key: a.plan.update(state, a.at, a.committed) for a in known if (state := before[a.key])}
            if self._ledger.remember(version, json.dumps({key: state.to_dict() for key, state in updated.items()})):
                states = updated
                arms = {account.limit.arm for account in known}
                with self._counting:  # what was counted meanwhile stays, and what is of an arm without a price yet
                    self._opportunities -= Counter({of: number for of, number in counted.items() if of[0] in arms})
            else:  # another router was first
                states = _states(self._ledger.memory()[1])
        self._publish(paced, {**before, **states}, now)

    def _publish(self, paced: Sequence[_Paced], states: Mapping[str, State | None], now: float) -> None:
        sums: dict[Scope, float] = {}
        for account in paced:
            if (state := states[account.key]) is not None:
                scope = account.limit.arm, account.limit.campaign, account.limit.channel
                sums[scope] = sums.get(scope, 0.0) + account.plan.price(state)
        self._prices = sums
        self._update_at = min((now + a.interval for a in paced if not a.counts), default=float("inf"))
        self._intervals = {(a.limit.arm, a.limit.campaign): a.interval for a in paced if a.counts}

    def prices(self, arm: str, campaign: str) -> dict[str, float] | None:
        """Price of each paced channel for an exposure of an arm in a campaign; None: all have the model's own."""
        if not self._prices:
            return None
        prices: dict[str, float] = {}
        for channel in self._channels:
            scopes = [(arm, c, h) for c in dict.fromkeys((campaign, "*")) for h in (channel, "*")]
            paced = [self._prices[scope] for scope in scopes if scope in self._prices]
            if paced:
                prices[channel] = sum(paced)
        return prices or None

    def by_arm(self) -> dict[str, float]:
        """Largest price of each arm, for a metric."""
        largest: dict[str, float] = {}
        for (arm, _, _), price in self._prices.items():
            largest[arm] = max(price, largest.get(arm, 0.0))
        return largest


@dataclass(frozen=True)
class _Paced:
    """A paced account that has money."""

    key: str  # changes with the period
    limit: AccountLimit
    counts: bool  # whether the clock is the number of opportunities
    plan: Plan
    at: float  # what the clock says
    committed: float  # currency units, spent or reserved

    @property
    def interval(self) -> float:
        """Longest one between two updates, by the plan's clock."""
        share = _UPDATE_SHARE * (self.plan.times[-1] - self.plan.times[0])
        return share if self.counts else min(_UPDATE_SECONDS, share)

    def before(self, states: Mapping[str, State], forecasts: Mapping[str, Forecasts]) -> State | None:
        """The state to go on from; None: the price to begin with is not known."""
        if (state := states.get(self.key)) is not None:
            return state
        # A new period begins with the price that the last one ended with.
        earlier = [state for key, state in states.items() if json.loads(key)[:4] == json.loads(self.key)[:4]]
        if earlier:
            last = max(earlier, key=lambda state: state.at)
            return replace(last, at=self.plan.times[0], spent=0.0)
        assert self.limit.pacing is not None
        if (price := self.limit.pacing.price) is not None:
            return self.plan.start(price)
        number, gain, cost = forecasts.get(self.limit.arm, (0, 0.0, 0.0))
        return self.plan.start(gain / cost) if number >= _FORECASTS and gain > 0 and cost > 0 else None

    def is_due(self, states: Mapping[str, State], counted: Opportunities, now: float) -> bool:
        """Whether it is time for an update, by the state that all routers share."""
        if (state := states.get(self.key)) is None:
            return True
        if self.counts:
            return counted[self.limit.arm, self.limit.campaign] >= self.interval
        return state.at <= now - self.interval


def _paced(
    limits: Sequence[AccountLimit],
    now: float,
    balances: Sequence[Balance],
    states: Mapping[str, State],
    counted: Opportunities,
) -> list[_Paced]:
    """The accounts to pace.

    The ledger says which period it is, and how much the arm may spend in it: spend of one period must not be compared
    with the plan of another, and what was spent before a change of stage counts.
    """
    found = {(b.arm, b.campaign, b.channel, b.period): b for b in balances}
    paced = []
    for limit in limits:
        pacing = limit.pacing
        balance = found.get((limit.arm, limit.campaign, limit.channel, limit.period))
        if pacing is None or balance is None or balance.limit <= 0:
            continue
        if pacing.opportunities is not None:
            # As with the money after a change of parts: what the arm has had, and its new part of what is left.
            had = {x.arm: _had(x, states, counted) for x in limits if x[1:3] == limit[1:3]}
            left = max(pacing.opportunities - sum(had.values()), _GRACE * pacing.opportunities)
            at = had[limit.arm]
            plan = pacing.plan_of_count(balance.limit, at + limit.part * left)
        else:
            plan = pacing.plan(balance.limit, limit.period, limit.timezone, balance.start or now)
            at = min(max(now, plan.times[0]), plan.times[-1])  # this clock may differ a little from the ledger's
        counts, committed = pacing.opportunities is not None, balance.spent + balance.reserved
        paced.append(_Paced(_key(limit, plan.times[0]), limit, counts, plan, at, committed))
    return paced


def _had(limit: AccountLimit, states: Mapping[str, State], counted: Opportunities) -> float:
    """Opportunities of an account so far."""
    state = states.get(_key(limit, 0.0))
    return (state.at if state else 0.0) + counted[limit.arm, limit.campaign]


def _key(account: AccountLimit, start: float) -> str:
    return json.dumps([account.arm, account.campaign, account.channel, account.period, start])


def _states(text: str) -> dict[str, State]:
    """What was remembered, by account; nothing if it is of a version that remembered other things."""
    try:
        return {key: State.from_dict(value) for key, value in json.loads(text or "{}").items()}
    except (TypeError, ValueError) as error:
        log.warning("pacing begins anew from the first price: what the ledger remembers can't be read: %s", error)
        return {}
