"""Simulates identical arms with a paced daily budget, to measure how much gain an arm loses because it is small.

The ledger is in memory. The same users' gain at a constant price serves as a control variate, because most of the
lift's variance comes from differences between users.
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
# Decisions per day. With 5 % of the users, the challenger can pay 25 or 170 exposures per day.
DECISIONS = (2_000, 13_600)
STAGES = ("1%", "5%", "25%", "50%")
_ARMS = ("challenger", INCUMBENT)
_KEYS = [arm_key("a-a", arm) for arm in _ARMS]
_CHANNEL, _CAMPAIGN = "search", "campaign"
_COSTS, _COST_CAP = (0.1, 0.3), 0.4
# Money per decision, which pays for an ad at a quarter of the decisions.
_MONEY = 0.25 * sum(_COSTS) / 2
_TRAFFIC = (0.4,) * 6 + (0.8, 1.0, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.4, 1.6, 1.8, 1.8, 1.4, 1.0, 0.6)
_DAY, _STEPS, _MIDNIGHT = 86_400.0, 240, 1_796_083_200.0


def paced(runs: int, seed: int) -> list[dict[str, Any]]:
    """Measure the lift between identical arms, by stage of a ramp and number of decisions per day."""
    found = []
    for decisions in DECISIONS:
        for stage in STAGES:
            wanted = max(3, runs // (4 if decisions > DECISIONS[0] else 1)) * (2 if stage == STAGES[0] else 1)
            found.append(_over_seeds(stage, decisions, [_run(stage, decisions, seed + i) for i in range(wanted)]))
            print(f"  paced, {stage}, {decisions:,} a day: {found[-1]['lift']:+.2%}", flush=True)
    return found


class _MemoryLedger:
    """A budget ledger in memory. Money is spent at once, without a reservation."""

    def __init__(self, experiments: Experiments) -> None:
        accounts = {one.arm: one.limit for one in ledger_accounts(experiments, {_CHANNEL: _COST_CAP})}
        self.limits, self.whole = np.array([accounts[arm] for arm in _KEYS]), accounts[ALL_ARMS]
        self.spent, self.midnight, self.time = np.zeros(2), _MIDNIGHT, _MIDNIGHT
        self.pacing = self

    def take(self, arm_N: np.ndarray, cost_N: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
        """Pay for the exposures in `wanted_N` in their order, and return a mask of the paid exposures.

        After an account's first unpaid exposure, its later ones are not paid either.
        """
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
    """Draw the click probability and the cost of `count` opportunities."""
    return np.minimum(0.9, rng.lognormal(-2.9, 0.92, count)), rng.uniform(*_COSTS, count)


@cache
def _prices_of_market() -> tuple[float, float]:
    """Return the median gain per currency unit, and the price that spends the budget."""
    gain, cost = _draw(np.random.default_rng(0), 1_000_000)
    order = np.argsort(gain / cost)[::-1]
    last = int(np.searchsorted(np.cumsum(cost[order]), len(cost) * _MONEY))
    return float(np.median(gain / cost)), float((gain / cost)[order[last]])


def _run(stage: str, decisions: int, seed: int) -> np.ndarray:
    """Simulate one experiment. Return decisions, gain, gain at a constant price and spent share by arm, (2, 4)."""
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
    """Return the challenger's lift over all seeds, with a confidence interval by the delta method."""
    made = np.stack(runs)
    totals = made.sum(axis=0)
    residual = made[:, :, 1:3] - made[:, :, :1] * (totals[:, 1:3] / totals[:, :1])  # axes: seed, arm, figure
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
