"""The pacing controller: updates the prices of budgets from the spend in the ledger.

Of the routers that share a ledger, one paces. It holds a lease in the ledger (`pacing_store.py`), updates the price of
each paced account every few seconds (`mtorl.policy.pacing`), and writes the prices that have changed. The other routers
poll the version of the prices once a second with one command, and read all prices after a change. If the router that
paces dies, another one takes the lease within SILENT_SECONDS + 1 and continues from the states in the ledger. Until
then, prices do not change.

The time is that of the ledger's clock: if routers used their own clocks, which differ, they would count more time than
has passed, and spend accordingly. If pacing counts opportunities instead, each router adds its own to the ledger's sum.

A round updates at most MOST_UPDATES accounts, beginning with those that have waited longest. A pause of 20 times its
duration follows. So each of up to 25,000 accounts is updated every five seconds; if there are more, less often.

An exposure draws on every matching account, so its price is the sum of the accounts' prices (the duals of their
budgets). A channel without a paced account keeps the model's own price, and so do all channels until the first price is
known. The experiment file may state the first price. Otherwise it is the median gain of a currency unit in the arms'
first forecasts for the campaign. A small arm begins with the largest arm's price (`mtorl/experiment/paced_account.py`).
"""

import logging
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from math import inf, nan
from typing import NamedTuple

from mtorl.experiment.layers import Experiments
from mtorl.experiment.paced_account import (
    KEPT,
    Clock,
    Forecasts,
    Kept,
    Scope,
    Target,
    account_name,
    first_price,
    highest_cost,
    scope_of,
    spare,
    terms_of,
    updated,
)
from mtorl.policy.pacing import MAX_MULTIPLIER, Pace
from mtorl.runtime.message import Message
from serving import messages
from serving.ledger.contract import Account, Balance, Budget, Ledger
from serving.ledger.pacing_store import Lease, Prices

log = logging.getLogger(__name__)

SILENT_SECONDS = 4.0
"""If the holder has not renewed the lease for this number of seconds, another router may take it over."""
MOST_UPDATES = 5_000
# age at which an inactive account's state is deleted
_FORGET_SECONDS = 62 * 86_400.0
_REPORT_SHARE = 0.005  # report the count after this share of a budget's opportunities
_REST = 20.0  # pause for this multiple of a round's duration, to limit the CPU time
# If the clocks' difference changes by more, a clock was set.
_JUMP_SECONDS = 5.0


class _InForce(NamedTuple):
    places: Mapping[Scope, Sequence[int]]  # scope -> indices in `values` of its accounts' prices
    values: Sequence[float]  # NaN if an account has no price yet

    def of(self, scope: Scope) -> list[float]:
        """Return the known prices of a scope's accounts, one per period."""
        return [price for place in self.places.get(scope, ()) if (price := self.values[place]) == price]


@dataclass
class _Lead:
    """The data of the router that paces."""

    written: dict[str, Kept]  # account -> its state in the ledger
    kept: dict[str, Kept]  # account -> its newest state
    due: dict[str, float]  # account -> next update, by `clock`
    clocks_apart: float = 0.0
    rests_until: float = -inf
    tidy: bool = True  # whether to look for inactive accounts to delete
    faults: dict[str, str] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    # Read in the last round:
    balances: list[Balance] = field(default_factory=list)
    now: float = 0.0  # time by the ledger's clock, seconds since 1970
    counts: Mapping[str, int] = field(default_factory=dict)  # account -> its opportunities
    gains: Mapping[str, float] = field(default_factory=dict)  # campaign without a price -> gain per currency unit
    had: Counter[tuple[str, str]] = field(default_factory=Counter)  # (campaign, channel) -> opportunities of all arms


class Pacer:
    """Keeps the current prices of all accounts with pacing.

    `refresh` must run in a single thread. `prices` is thread-safe, and all other methods belong to the event loop.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self, ledger: Ledger, cost_cap: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._cost_cap = dict(cost_cap)
        self._clock = clock
        self._owner = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._lease: Lease | None = None
        self._renewed = 0.0  # last renewal of the lease that this router saw, by `clock`
        self._version = -1  # of the prices that were read last
        self._lead: _Lead | None = None  # None if another router paces
        # Worker threads may read these at any time:
        self._names = ""  # names of all accounts, one per line
        self._place_of: dict[str, int] = {}  # account -> index of its price
        self._prices = _InForce({}, ())
        # Derived from the experiments:
        self._experiments: Experiments | None = None
        self._targets: Mapping[str, Target] = {}
        # budget -> part and name of its largest account with an endpoint
        self._largest: Mapping[Budget, tuple[float, str]] = {}
        # Counted by this router:
        self._counting = threading.Lock()
        # (arm, campaign or "*") -> accounts, and the number after which to report
        self._counted: Mapping[tuple[str, str], Sequence[tuple[str, float]]] = {}
        self._opportunities: Counter[str] = Counter()  # account -> opportunities since the last report
        self._forecasts: dict[str, Forecasts] = {}  # campaign without a price -> forecasts of its arms
        self._without_price: dict[str, str] = {}  # campaign -> why its forecasts give no price

    @property
    def leads(self) -> bool:
        """Whether this router computes the prices for all routers."""
        return self._lead is not None

    @property
    def faults(self) -> list[Message]:
        """Messages about accounts that can't be paced, whose prices stay constant."""
        faults = self._lead.faults if self._lead else {}
        scopes = ((scope_of(name), why) for name, why in faults.items())
        return [messages.NOT_PACED(arm=arm, campaign=c, channel=h, why=why) for (arm, c, h), why in scopes]

    def count(self, arm: str, campaign: str, reward: float | None, cost: float | None) -> None:
        """Count one opportunity of an arm, with the arm's forecasts, if any."""
        with self._counting:
            for of in dict.fromkeys((campaign, "*")):
                for name, _ in self._counted.get((arm, of), ()):
                    self._opportunities[name] += 1
                if of in self._forecasts:
                    self._forecasts[of].add(reward, cost)

    def due(self) -> bool:
        """Whether to call `refresh` at once, because of many opportunities."""
        return any(self._opportunities[name] >= most for accounts in self._counted.values() for name, most in accounts)

    def refresh(self, experiments: Experiments) -> list[Balance] | None:
        """Compute the prices if this router holds the lease; otherwise read the prices from the ledger.

        Returns the balances of the last computation, or None if another router computes the prices.

        Raises:
            LedgerUnavailable: The ledger does not answer. The last known prices stay in use.
        """
        if experiments is not self._experiments:
            self._set(experiments)
        leads = self._takes_lease()
        self._report()
        if leads:
            lead = self._lead = self._lead or self._begin_to_lead()
            began = self._clock()
            if began < lead.rests_until:
                return lead.balances
            if self._pace(lead):
                lead.rests_until = self._clock() + _REST * (self._clock() - began)
                return lead.balances
            log.warning("another router paces now")
        if self._lead is not None:
            self._lead, self._version = None, -1
        self._read()
        return None

    def release(self) -> None:
        """Release the lease for other routers; raises LedgerUnavailable."""
        if self._lead is not None and self._lease is not None:
            self._lead = None
            self._ledger.pacing.lease("", self._lease)

    def _takes_lease(self) -> bool:
        store, seen = self._ledger.pacing, self._lease
        silent = seen if seen is not None and self._clock() - self._renewed > SILENT_SECONDS else None
        lease = store.lease(self._owner, silent)
        if lease != seen:
            self._lease, self._renewed = lease, self._clock()
        return lease.holder == self._owner

    def _begin_to_lead(self) -> _Lead:
        written, damaged = dict[str, Kept](), 0
        for name, text in self._ledger.pacing.states().items():
            try:
                written[name] = KEPT.validate_json(text)
            except ValueError:
                damaged += 1
        if damaged:
            log.warning("%d states of pacing can't be read: their accounts begin again with the first price", damaged)
        self._use(self._prices_of(written))
        log.info("this router paces for all that share the ledger")
        return _Lead(written, dict(written), dict.fromkeys(self._targets, -inf))

    def _set(self, experiments: Experiments) -> None:
        targets = dict[str, Target]()
        counted = defaultdict[tuple[str, str], list[tuple[str, float]]](list)
        largest = dict[Budget, tuple[float, str]]()
        terms: dict[tuple[int, float], str] = {}  # accounts of a budget share its pacing
        for limit in experiments.accounts():
            if limit.pacing is None:
                continue
            name, of = account_name(limit), (id(limit.pacing), limit.part)
            if of not in terms:
                terms[of] = terms_of(limit)
            targets[name] = Target(limit, terms[of], highest_cost(limit, self._cost_cap), experiments.asks(limit.arm))
            if targets[name].asks and limit.part > largest.get(targets[name].budget, (0.0, ""))[0]:
                largest[targets[name].budget] = limit.part, name
            if (most := limit.pacing.opportunities) is not None:
                counted[limit.arm, limit.campaign].append((name, _REPORT_SHARE * most))
        self._targets, self._largest = targets, largest
        if (lead := self._lead) is not None:
            lead.due, lead.rests_until, lead.tidy = dict.fromkeys(targets, -inf), -inf, True
            lead.paces = {name: pace for name, pace in lead.paces.items() if name in targets}
            lead.faults = {name: fault for name, fault in lead.faults.items() if name in targets}
        with self._counting:
            self._counted = counted
            self._forecasts = {campaign: self._forecasts.get(campaign) or Forecasts() for campaign in self._awaited()}
        self._place()
        self._experiments = experiments

    def _awaited(self) -> set[str]:
        return {
            target.limit.campaign
            for name, target in self._targets.items()
            if target.limit.pacing is not None and target.limit.pacing.price is None and not self._priced(name)
        }

    def _report(self) -> None:
        gains = dict[str, float]()
        self._without_price = {}
        with self._counting:
            counted = self._opportunities.copy()
            for campaign, forecasts in self._forecasts.items():
                try:
                    if (gain := forecasts.usual()) is not None:
                        gains[campaign] = gain
                except ValueError as error:
                    self._without_price[campaign] = str(error)
        if counted or gains:
            self._ledger.pacing.report(counted, gains)
            with self._counting:  # keeps what was counted meanwhile
                self._opportunities -= counted

    def _read(self) -> None:
        assert self._lease is not None
        if self._lease.version != self._version:
            self._version, prices = self._ledger.pacing.prices()
            self._use(prices)

    def _prices_of(self, written: Mapping[str, Kept]) -> Prices:
        """Return the prices of all accounts. While the accounts stay the same, their order stays the same."""
        return Prices.of({**dict.fromkeys(self._targets, nan), **{name: kept.price for name, kept in written.items()}})

    def _use(self, prices: Prices) -> None:
        if prices.names != self._names:
            self._names = prices.names
            self._place_of = {name: place for place, name in enumerate(prices.names.split("\n"))}
            self._place(prices.values)
        else:
            self._prices = self._prices._replace(values=prices.values)
        if self._forecasts:
            awaited = self._awaited()
            with self._counting:
                self._forecasts = {campaign: one for campaign, one in self._forecasts.items() if campaign in awaited}

    def _place(self, values: Sequence[float] | None = None) -> None:
        places = defaultdict[Scope, list[int]](list)
        for name, target in self._targets.items():
            if (place := self._place_of.get(name)) is not None:
                places[target.limit.arm, target.limit.campaign, target.limit.channel].append(place)
        self._prices = _InForce(dict(places), self._prices.values if values is None else values)

    def _priced(self, name: str) -> bool:
        place = self._place_of.get(name)
        return place is not None and self._prices.values[place] == self._prices.values[place]

    def _pace(self, lead: _Lead) -> bool:
        """Update the accounts that are due; returns False if the lease is lost."""
        assert self._lease is not None
        lead.balances = self._ledger.balances()
        ticks, lead.now = self._clock(), self._ledger.now()
        # One of the clocks was set.
        if abs(lead.now - ticks - lead.clocks_apart) > _JUMP_SECONDS:
            lead.clocks_apart, lead.due = lead.now - ticks, dict.fromkeys(self._targets, -inf)
        due = [name for name, at in lead.due.items() if at <= ticks]
        if len(due) > MOST_UPDATES:
            due = nsmallest(MOST_UPDATES, due, key=lead.due.__getitem__)
        found = {(b.arm, b.campaign, b.channel, b.period): b for b in lead.balances}
        counts, gains = self._ledger.pacing.reports() if self._counted or self._forecasts else ({}, {})
        lead.counts, lead.gains, lead.had = counts, gains, Counter()
        for name, number in counts.items():
            lead.had[scope_of(name)[1:]] += number
        changed: dict[str, Kept] = {}
        for name in due:
            limit = self._targets[name].limit
            balance = found.get((limit.arm, limit.campaign, limit.channel, limit.period))
            if balance is not None and (kept := self._update(lead, name, balance)) is not None:
                lead.kept[name] = kept
                if kept.worth_writing(lead.written.get(name), lead.now):
                    changed[name] = kept._replace(written=lead.now)
        gone, since = list[str](), lead.now - _FORGET_SECONDS
        if lead.tidy:
            gone = [name for name, kept in lead.written.items() if name not in self._targets and kept.written < since]
            lead.tidy = False
        if not changed and not gone:
            return True
        states = {name: KEPT.dump_json(kept).decode() for name, kept in changed.items()} | dict.fromkeys(gone, "")
        lead.written.update(changed)
        for name in gone:
            del lead.written[name]
        prices = self._prices_of(lead.written)
        if not self._ledger.pacing.publish(self._lease, states, prices):
            return False
        self._use(prices)
        return True

    def _update(self, lead: _Lead, name: str, balance: Balance) -> Kept | None:
        """Return an account's new state; None if the account has no price yet or its pacing fails."""
        target, kept = self._targets[name], lead.kept.get(name)
        limit, pacing = target.limit, target.limit.pacing
        assert pacing is not None
        try:
            first = first_price(limit, kept)
            if first is None:
                if limit.campaign not in lead.gains:
                    if limit.campaign in self._without_price:
                        raise ValueError(self._without_price[limit.campaign])
                    return None
                first = (1.0, lead.gains[limit.campaign])
            if (most := pacing.opportunities) is not None:
                had = lead.had[limit.campaign, limit.channel]
                clock = Clock.of_count(limit, most, lead.counts.get(name, 0), had)
            else:
                clock = Clock.of_time(limit, pacing, float(balance.start or lead.now), lead.now)
            amounts = balance.limit, balance.spent + balance.reserved
            part, largest = self._largest.get(target.budget, (0.0, ""))
            leading = lead.kept.get(largest) if part > limit.part else None
            found, pace = updated(target, clock, amounts, kept, first, leading)
        except (ValueError, OverflowError) as error:
            if lead.faults.get(name) != str(error):
                log.warning("not paced: %s: %s", name, error, extra={"arm": limit.arm})
            lead.faults[name] = str(error)
            return None
        lead.due[name] = self._clock() + clock.interval
        if pace is None:
            lead.paces.pop(name, None)
        else:
            lead.paces[name] = pace
        if found.state.multiplier > MAX_MULTIPLIER / 2:  # the price is near its highest value
            too_low = messages.PRICE_TOO_LOW(most=MAX_MULTIPLIER)
            lead.faults[name] = too_low if target.asks else messages.PRICE_IGNORED()
        else:
            lead.faults.pop(name, None)
        return found

    def prices(self, arm: str, campaign: str) -> dict[str, float] | None:
        """Return the price of each paced channel; None if no channel is paced."""
        known, prices = self._prices, dict[str, float]()
        if not known.places:
            return None
        for channel in self._cost_cap:
            scopes = [(arm, c, h) for c in dict.fromkeys((campaign, "*")) for h in (channel, "*")]
            if paced := [price for scope in scopes for price in known.of(scope)]:
                prices[channel] = sum(paced)
        return prices or None

    def pace(self) -> list[Pace]:
        """Return spend and planned spend of each account with money left."""
        return list(self._lead.paces.values()) if self._lead else []

    def by_arm(self) -> dict[str, float]:
        """Return the highest price of each arm."""
        known, largest = self._prices, dict[str, float]()
        for scope in known.places:
            if paced := known.of(scope):
                largest[scope[0]] = max(sum(paced), largest.get(scope[0], 0.0))
        return largest


def ledger_accounts(experiments: Experiments, cost_cap: Mapping[str, float]) -> list[Account]:
    """Convert the experiments' budgets to accounts of the ledger."""
    return [
        Account(
            x.arm,
            x.campaign,
            x.channel,
            x.limit + spare(x, experiments.asks(x.arm), highest_cost(x, cost_cap)),
            x.period,
            x.timezone,
        )
        for x in experiments.accounts()
    ]
