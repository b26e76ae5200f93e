"""Simulates identical arms with a paced daily budget, to measure what a small arm loses by the size of its account.

The pacing controller, and the accounts and limits of the experiment file, are the real ones; the ledger is in memory.
Opportunities are a Poisson process with a daily pattern and random noise for each hour. Each opportunity is of a
different user. It is taken if its gain is worth its cost at the arm's price and the ledger has money for the highest
cost. The experiment file has no price, so the first price is the median forecast, about half of the right one. Prices
are updated every six minutes.

Much of a lift is noise in the users. The gain of the same opportunities at a constant price without a budget has the
same noise and a true lift of 0. So the lift is adjusted by its regression on that gain (a control variate).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import numpy as np
from scipy.stats import t

from benchmarks.scale_runs.batch import definition
from mtorl.experiment.arm import ALL_ARMS, INCUMBENT, arm_key
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from serving.ledger.contract import Balance, Ledger
from serving.ledger.pacer import Pacer, ledger_accounts
from serving.ledger.pacing_store import Lease, Prices

DAYS = 10
DECISIONS = (2_000, 13_600)  # per day: at 5 %, the challenger has money for 25 and 170 exposures
STAGES = ("1%", "5%", "25%", "50%")
_ARMS = ("challenger", INCUMBENT)
_KEYS = [arm_key("a-a", arm) for arm in _ARMS]
_CHANNEL, _CAMPAIGN = "search", "campaign"
_COSTS, _COST_CAP = (0.1, 0.3), 0.4
_MONEY = 0.25 * sum(_COSTS) / 2  # budget per decision: enough to expose about every fourth decision
_TRAFFIC = (0.4,) * 6 + (0.8, 1.0, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.4, 1.6, 1.8, 1.8, 1.4, 1.0, 0.6)
_DAY, _STEPS, _MIDNIGHT = 86_400.0, 240, 1_796_083_200.0


def paced(runs: int, seed: int) -> list[dict[str, Any]]:
    """A row for each stage and number of decisions."""
    found = []
    for decisions in DECISIONS:
        for stage in STAGES:
            wanted = max(3, runs // (4 if decisions > DECISIONS[0] else 1)) * (2 if stage == STAGES[0] else 1)
            found.append(_over_seeds(stage, decisions, [_run(stage, decisions, seed + i) for i in range(wanted)]))
            print(f"  paced, {stage}, {decisions:,} a day: {found[-1]['lift']:+.2%}", flush=True)
    return found


class _MemoryLedger:
    """The accounts of one budget for a day, settling each reservation immediately; also the pacing store."""

    def __init__(self, experiments: Experiments) -> None:
        accounts = {one.arm: one.limit for one in ledger_accounts(experiments, {_CHANNEL: _COST_CAP})}
        self.limits, self.whole = np.array([accounts[arm] for arm in _KEYS]), accounts[ALL_ARMS]
        self.spent, self.midnight, self.time = np.zeros(2), _MIDNIGHT, _MIDNIGHT
        self.pacing = self

    def take(self, arm_N: np.ndarray, cost_N: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
        """Mask of the taken opportunities. If one does not fit into an account, no later one fits: sums never fall."""
        fits_N = wanted_N.copy()
        for arm in range(2):
            fits_N &= (arm_N != arm) | self._room(self.limits[arm], self.spent[arm], cost_N * (fits_N & (arm_N == arm)))
        fits_N &= self._room(self.whole, self.spent.sum(), cost_N * fits_N)
        self.spent += np.bincount(arm_N, cost_N * fits_N, minlength=2)
        assert self.spent.sum() <= self.whole and (self.spent <= self.limits).all()
        return fits_N

    @staticmethod
    def _room(limit: float, spent: float, cost_N: np.ndarray) -> np.ndarray:
        return spent + np.cumsum(cost_N) - cost_N + _COST_CAP <= limit

    def now(self) -> float:
        return self.time

    def balances(self) -> list[Balance]:
        amounts = zip(_KEYS, self.limits.tolist(), self.spent.tolist(), strict=True)
        return [Balance(arm, "*", "*", of, spent, 0.0, 0.0, "day", int(self.midnight)) for arm, of, spent in amounts]

    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        return Lease(owner, 1, 0)

    def states(self) -> dict[str, str]:
        return {}

    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        pass

    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        return {}, {"*": _prices_of_market()[0]}

    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        return True


def _draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain (probability of a click) and cost of `count` opportunities."""
    return np.minimum(0.9, rng.lognormal(-2.9, 0.92, count)), rng.uniform(*_COSTS, count)


@cache
def _prices_of_market() -> tuple[float, float]:
    """The median gain per currency unit, and the constant price at which the market spends the budget."""
    gain, cost = _draw(np.random.default_rng(0), 1_000_000)
    order = np.argsort(gain / cost)[::-1]
    last = int(np.searchsorted(np.cumsum(cost[order]), len(cost) * _MONEY))
    return float(np.median(gain / cost)), float((gain / cost)[order[last]])


def _run(stage: str, decisions: int, seed: int) -> np.ndarray:
    """For each arm, (2, 4): decisions, gain, gain at the constant price, and mean spent share of its budget."""
    budget = {"campaign": "*", "channel": "*", "amount": decisions * _MONEY, "period": "day"}
    budgets = [{**budget, "pacing": {"traffic": _TRAFFIC}}]
    arms = [{"name": arm, "weight": 0.5, "endpoint": "http://arm"} for arm in _ARMS]
    experiment = Experiment.from_dict(definition("a-a", stage=stage, arms=arms, budgets=budgets))
    experiments, shares = Experiments([experiment]), np.array([experiment.shares()[arm] for arm in _ARMS])
    rng, ledger, found = np.random.default_rng(seed), _MemoryLedger(experiments), np.zeros((2, 4))
    pacer = Pacer(cast(Ledger, ledger), {_CHANNEL: _COST_CAP}, ledger.now)
    for day in range(DAYS):
        ledger.midnight, ledger.spent = _MIDNIGHT + day * _DAY, np.zeros(2)
        noise = rng.lognormal(-0.02, 0.2, 24) * _TRAFFIC / np.mean(_TRAFFIC)
        for step in range(_STEPS):
            ledger.time = ledger.midnight + step * _DAY / _STEPS
            pacer.refresh(experiments)
            price = np.array([(pacer.prices(arm, _CAMPAIGN) or {})[_CHANNEL] for arm in _KEYS])
            count = rng.poisson(decisions / _STEPS * noise[24 * step // _STEPS])
            arm_N, (gain_N, cost_N) = rng.choice(2, count, p=shares), _draw(rng, count)
            taken_N = ledger.take(arm_N, cost_N, gain_N >= price[arm_N] * cost_N)
            worth_N = gain_N * (gain_N >= _prices_of_market()[1] * cost_N)
            columns = np.ones(count), gain_N * taken_N, worth_N
            found[:, :3] += np.stack([np.bincount(arm_N, of, minlength=2) for of in columns], axis=1)
        found[:, 3] += ledger.spent / (shares * ledger.whole * DAYS)
    return found


def _over_seeds(stage: str, decisions: int, runs: list[np.ndarray]) -> dict[str, Any]:
    """Lift in gain per decision, as a ratio of sums over the seeds, with an interval by the delta method."""
    made = np.stack(runs)
    totals = made.sum(axis=0)
    residual = made[:, :, 1:3] - made[:, :, :1] * (totals[:, 1:3] / totals[:, :1])  # by seed, arm and column
    influence = residual / (totals[:, :1] / len(runs)) / (totals[1, 1:3] / totals[1, 0])
    lift, control = (influence[:, 0] - influence[:, 1]).T
    slope = np.cov(lift, control)[0, 1] / control.var(ddof=1)
    rate = totals[:, 1:3] / totals[:, :1]
    mean = rate[0] / rate[1] - 1.0
    error = (lift - slope * control).std(ddof=2) / np.sqrt(len(runs))
    return {
        "share": stage,
        "decisions_a_day": decisions,
        "runs": len(runs),
        "spent_challenger": float(totals[0, 3] / len(runs)),
        "spent_incumbent": float(totals[1, 3] / len(runs)),
        "lift": float(mean[0] - slope * mean[1]),
        "margin": float(t.ppf(0.975, len(runs) - 2) * error),
    }
