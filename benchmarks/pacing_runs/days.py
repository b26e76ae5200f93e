"""Days of one policy in both arms of an experiment, paced as when served, with a clock and a ledger of their own.

The pacing controller (`serving/router/flow/pacer.py`), the experiment file, its assignment and its accounts are the
real ones. Opportunities come as a Poisson process whose rate has the shape of a day, and some noise. Users differ in
their gains. Each opportunity has one channel, and is taken if its gain is worth its cost at the price in force and the
ledger has room for the highest cost there may be.

Prices are updated every two minutes and not every five seconds, which saves most of the time; where the clock is the
number of opportunities, after every one that makes an update due.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from benchmarks.pacing_runs.ledger import MemoryLedger
from mtorl.experiment.arm import INCUMBENT, arm_key
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from mtorl.experiment.statistics import compare, estimate
from mtorl.experiment.sums import Sums
from mtorl.experiment.verdict import reach_verdict
from serving.ledger.contract import Account, Ledger
from serving.router.flow.pacer import Pacer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

ARMS = ("challenger", INCUMBENT)
_NAME = "a-a"
_KEYS = [arm_key(_NAME, arm) for arm in ARMS]
DAY, HOUR = 86_400.0, 3_600.0
MIDNIGHT = 1_796_083_200.0
USERS = 4_000
_SECONDS = 120.0  # between two updates of one router
_CHANNEL, _CAMPAIGN = "search", "campaign"
_COSTS, _COST_CAP = (0.1, 0.3), 0.4
_BUDGET = 0.25 * sum(_COSTS) / 2  # of one decision: money for about every fourth
_FIRST_PRICE = 0.5  # stated in the file, or the model's own
_TRAFFIC = (0.4,) * 6 + (0.8, 1.0, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.4, 1.6, 1.8, 1.8, 1.4, 1.0, 0.6)


class Phase(NamedTuple):
    """A time in which the experiment file stays as it is."""

    hours: float
    stage: str
    enabled: bool = True


@dataclass(frozen=True)
class Kind:
    """One kind of run."""

    name: str
    phases: tuple[Phase, ...]
    decisions: int  # a day
    clock: str = "day"  # of the budget: day, time (a total with start and end) or count (with opportunities)
    start_hour: float = 0.0
    routers: int = 1
    price_is_stated: bool = True

    @property
    def days(self) -> float:
        """From the first phase to the end of the last."""
        return sum(phase.hours for phase in self.phases) / 24.0

    def experiment(self, seed: int, phase: Phase) -> Experiment:
        """The file of a phase; the salt shuffles the users of each seed."""
        total = self.days * self.decisions * _BUDGET
        pacing: dict[str, Any] = {"price": _FIRST_PRICE} if self.price_is_stated else {}
        budget: dict[str, Any] = {"campaign": "*", "channel": "*", "amount": total}
        if self.clock == "day":
            pacing["traffic"] = _TRAFFIC
            budget |= {"amount": self.decisions * _BUDGET, "period": "day"}
        elif self.clock == "time":
            start = MIDNIGHT + self.start_hour * HOUR
            ends = [datetime.fromtimestamp(at, UTC).isoformat() for at in (start, start + self.days * DAY)]
            pacing |= {"traffic": _TRAFFIC, "start": ends[0], "end": ends[1]}
        else:
            pacing["opportunities"] = round(self.days * self.decisions)
        return Experiment.from_dict(
            {
                "name": _NAME,
                "enabled": phase.enabled,
                "salt": f"seed-{seed}",
                "unit": "user_id",
                "layer": f"layer-{seed}",
                "stage": phase.stage,
                "arms": [{"name": arm, "weight": 0.5, "endpoint": "http://arm"} for arm in ARMS],
                "default_channel": _CHANNEL,
                "budgets": [{**budget, "pacing": pacing}],
                "metrics": {"primary": "click_per_decision"},
                "alpha": 0.05,
                "min_runtime_hours": 0,
                "owner": "benchmark",
            }
        )


class Opportunities(NamedTuple):
    """Those of a phase; all of shape (N,)."""

    at: Floats  # seconds since 1970, ascending
    user: Ints
    gain: Floats
    cost: Floats
    router: Ints


@dataclass
class Market:
    """Users and what an opportunity of theirs is worth."""

    users: int
    rng: np.random.Generator
    affinity: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.affinity = self.rng.lognormal(-0.3, 0.7, self.users)

    def opportunities(self, start: float, end: float, daily: int, routers: int) -> Opportunities:
        """Those between two times, on whole or parts of hours."""
        at: list[Floats] = []
        while start < end:
            until = min(end, (start // HOUR + 1) * HOUR)
            expected = daily * (until - start) / DAY * _TRAFFIC[int(start % DAY // HOUR)] / np.mean(_TRAFFIC)
            count = self.rng.poisson(expected * self.rng.lognormal(-0.02, 0.2))
            at.append(np.sort(self.rng.uniform(start, until, count)))
            start = until
        times = np.concatenate(at)
        user, gain, cost = self.draw(len(times))
        return Opportunities(times, user, gain, cost, self.rng.integers(0, routers, len(times)))

    def draw(self, count: int) -> tuple[Ints, Floats, Floats]:
        """User, gain (a probability of a click) and cost of so many."""
        user = self.rng.integers(0, self.users, count)
        gain = np.minimum(0.9, self.affinity[user] * self.rng.lognormal(-2.6, 0.6, count))
        return user, gain, self.rng.uniform(*_COSTS, count)


@cache
def clearing_price() -> float:
    """The constant price at which the market spends the budget."""
    _, gain, cost = Market(100_000, np.random.default_rng(0)).draw(1_000_000)
    order = np.argsort(gain / cost)[::-1]
    last = int(np.searchsorted(np.cumsum(cost[order]), len(cost) * _BUDGET))
    return float((gain / cost)[order[last]])


class Forecast(NamedTuple):
    """What the policy expects of an exposure."""

    expected_reward: float
    expected_cost: float


@dataclass
class Clock:
    """The time of a run, seconds since 1970."""

    now: float

    def __call__(self) -> float:
        """The time."""
        return self.now


class Routers:
    """Pacing controllers that share one ledger, and the prices that each has published."""

    def __init__(self, count: int, ledger: MemoryLedger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self.pacers = [Pacer(cast(Ledger, ledger), {_CHANNEL: _COST_CAP}, clock) for _ in range(count)]
        self.prices = np.full((count, len(ARMS)), _FIRST_PRICE)

    def refresh(self, router: int, experiments: Experiments) -> None:
        """As a router does in the background."""
        pacer = self.pacers[router]
        pacer.refresh(experiments, self._ledger.balances())
        for index, arm in enumerate(_KEYS):
            self.prices[router, index] = (pacer.prices(arm, _CAMPAIGN) or {}).get(_CHANNEL, _FIRST_PRICE)


class Run(NamedTuple):
    """What came of one run."""

    spent: tuple[float, float]  # share of the limit, by arm; mean over periods
    lift: float  # challenger less incumbent, gain per decision
    incumbent: float  # gain per decision
    control: float  # the lift of the same opportunities at one constant price without a budget
    verdict: str  # the first that ends an experiment, of a look every day; else "inconclusive"


def run(kind: Kind, seed: int) -> Run:
    """Play one seed of a kind."""
    clock = Clock(MIDNIGHT + kind.start_hour * HOUR)
    market = Market(USERS, np.random.default_rng(seed))
    ledger = MemoryLedger(clock)
    routers = Routers(kind.routers, ledger, clock)
    cells = list(dict.fromkeys((phase.stage, phase.enabled) for phase in kind.phases))
    shape = market.users, len(ARMS), len(cells)
    decided, taken, clicked, wanted = (np.zeros(shape) for _ in range(4))
    spent: list[Mapping[str, float]] = []
    verdict = "inconclusive"
    for phase in kind.phases:
        experiment = kind.experiment(seed, phase)
        together = Experiments([experiment])
        ledger.define(Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in together.accounts())
        arm_of = np.array([ARMS.index(experiment.arm_of(f"user-{user}")[0]) for user in range(market.users)])
        for router in range(kind.routers):
            routers.refresh(router, experiment)
        for until in _stops(clock.now, clock.now + phase.hours * HOUR):
            found = market.opportunities(clock.now, until, kind.decisions, kind.routers)
            arm = arm_of[found.user]
            exposed = _serve(kind, found, arm, together, ledger, routers, clock, until)
            of = found.user, arm, np.full(len(arm), cells.index((phase.stage, phase.enabled)))
            np.add.at(decided, of, 1.0)
            np.add.at(taken, of, found.gain * exposed)
            np.add.at(clicked, of, exposed & (market.rng.random(len(arm)) < found.gain))
            np.add.at(wanted, of, found.gain * (found.gain >= clearing_price() * found.cost))
            if until % DAY == 0 and kind.clock == "day":
                spent.append(_spent_shares(ledger, clock, until))
            token = reach_verdict(compare(_sums(clicked, decided), alpha=0.05, tightest_at=2_000), srm_p=1.0).token
            verdict = token if verdict == "inconclusive" else verdict
            clock.now = until
    if kind.clock != "day":
        spent.append(_spent_shares(ledger, clock, clock.now))
    lift, control = estimate(_sums(taken, decided)), estimate(_sums(wanted, decided))
    shares = [float(np.mean([shares[arm] for shares in spent])) for arm in _KEYS]
    return Run((shares[0], shares[1]), float(lift.value), float(lift.incumbent), float(control.value), verdict)


def _stops(start: float, end: float) -> Iterator[float]:
    """Every midnight between two times, and the end."""
    while start < end:
        start = min(end, (start // DAY + 1) * DAY)
        yield start


def _serve(
    kind: Kind,
    found: Opportunities,
    arm: Ints,
    experiments: Experiments,
    ledger: MemoryLedger,
    routers: Routers,
    clock: Clock,
    until: float,
) -> npt.NDArray[np.bool_]:
    """Which opportunities are taken; routers refresh in turn, so each has prices of another age."""
    exposed = np.zeros(len(arm), dtype=bool)
    count, clock_counts = len(routers.pacers), kind.clock == "count"
    ticks = np.arange(clock.now + _SECONDS / count, until, _SECONDS / count)
    edges = [0, *np.searchsorted(found.at, ticks).tolist(), len(arm)]
    for turn, (first, last) in enumerate(pairwise(edges)):
        steps: Sequence[tuple[int, int]] = [(first, last)]
        if clock_counts:
            steps = [(i, i + 1) for i in range(first, last)]
        for a, b in steps:
            prices = routers.prices[found.router[a:b], arm[a:b]]
            for i in (a + np.flatnonzero(found.gain[a:b] >= prices * found.cost[a:b])).tolist():
                clock.now = float(found.at[i])
                exposed[i] = ledger.spend(_KEYS[arm[i]], _COST_CAP, float(found.cost[i]))
            for i in range(a, b):
                forecast = Forecast(float(found.gain[i]), float(found.cost[i]))
                routers.pacers[found.router[i]].count(_KEYS[arm[i]], _CAMPAIGN, forecast)
            if clock_counts and routers.pacers[found.router[a]].due():
                clock.now = float(found.at[a])
                routers.refresh(int(found.router[a]), experiments)
        if turn < len(ticks):
            clock.now = float(ticks[turn])
            routers.refresh(turn % count, experiments)
    return exposed


def _spent_shares(ledger: MemoryLedger, clock: Clock, end: float) -> dict[str, float]:
    clock.now = end - 1e-3  # still in the period
    return {b.arm: b.spent / b.limit if b.limit else 0.0 for b in ledger.balances()}


def _sums(numerator: Floats, decided: Floats) -> Sums:
    return Sums.of_users(np.stack([numerator, decided], axis=-1), decided > 0)
