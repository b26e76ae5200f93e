"""The pacing controller: prices of budgets that follow what the ledger says is spent.

Every router reads the ledger every few seconds, updates the price of each paced account (`mtorl.policy.pacing`), and
writes the new state back, unless another router did so in between; then it takes that one's. So there is one sequence
of updates however many routers there are, and none of them is a leader that could fail. The state lies in the ledger,
beside the spend that it follows: a router that restarts goes on from there.

An exposure draws on every account that matches it, so its price is the sum of theirs (each is the dual of its own
budget). A channel without a paced account keeps the model's own price.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mtorl.experiment.experiment import Experiment
from mtorl.policy.pacing import Plan, State
from serving.ledger import Balance, Ledger

_UPDATE_SECONDS = 5.0  # between updates; the shortest period is an hour, and half a percent of it 18 s

Scope = tuple[str, str, str]  # arm, campaign, channel; "*" is any


class Pacer:
    """Keeps the prices in force.

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

    def refresh(self, experiment: Experiment, balances: Sequence[Balance]) -> None:
        """Read the state that all routers share, and update it if it is time.

        Args:
            experiment: The experiment in force; it says which budgets are paced, and how.
            balances: All accounts, just read.

        Raises:
            LedgerUnavailable: The ledger does not answer; the prices stay as they are.
        """
        now = self._clock()
        plans = _plans(experiment, now, balances)
        if not plans:
            self._prices = {}
            return
        version, text = self._ledger.memory()
        states = {key: State.from_dict(value) for key, value in json.loads(text or "{}").items()}
        if min((states[key].at if key in states else 0.0 for key in plans), default=0.0) <= now - _UPDATE_SECONDS:
            updated = _updated(plans, states, balances, now)
            text = json.dumps({key: state.to_dict() for key, state in updated.items()})
            if self._ledger.remember(version, text):
                states = updated
            else:  # another router was first
                _, text = self._ledger.memory()
                states = {key: State.from_dict(value) for key, value in json.loads(text or "{}").items()}
        sums: dict[Scope, float] = {}
        for key, (scope, plan) in plans.items():
            sums[scope] = sums.get(scope, 0.0) + plan.price(states.get(key) or plan.start())
        self._prices = sums

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


def _plans(experiment: Experiment, now: float, balances: Sequence[Balance]) -> dict[str, tuple[Scope, Plan]]:
    """The plan of each paced account that has money, under a key that changes with its period.

    The ledger says which period it is, and how much the arm may spend in it: spend of one period must not be compared
    with the plan of another, and what was spent before a change of stage counts.
    """
    plans = {}
    found = {(b.arm, b.campaign, b.channel, b.period): b for b in balances}
    for account in experiment.accounts():
        scope = (account.arm, account.campaign, account.channel)
        balance = found.get((*scope, account.period))
        if account.pacing is None or balance is None or balance.limit <= 0:
            continue
        plan = account.pacing.plan(balance.limit, account.period, account.timezone, balance.start or now)
        plans[json.dumps([*scope, account.period, plan.times[0]])] = (scope, plan)
    return plans


def _updated(
    plans: Mapping[str, tuple[Scope, Plan]], states: Mapping[str, State], balances: Iterable[Balance], now: float
) -> dict[str, State]:
    """New states of the plans in force; states of past periods are dropped."""
    committed: dict[tuple[Any, ...], float] = {
        (b.arm, b.campaign, b.channel, b.period): b.spent + b.reserved for b in balances
    }
    updated = {}
    for key, (scope, plan) in plans.items():
        before = states.get(key)
        if before is None:
            # A new period begins with the price that the last one ended with.
            earlier = [state for old, state in states.items() if json.loads(old)[:4] == json.loads(key)[:4]]
            last = max(earlier, key=lambda state: state.at, default=None)
            before = State(plan.times[0], 0.0, last.multiplier) if last else plan.start()
        spent = committed.get((*scope, json.loads(key)[3]))
        at = min(max(now, plan.times[0]), plan.times[-1])  # this clock may differ a little from the ledger's
        updated[key] = before if spent is None else plan.update(before, at, spent)
    return updated
