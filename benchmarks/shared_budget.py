"""How wrong an experiment is whose arms spend one budget, and one whose budget is split by arm.

    export OPENBLAS_NUM_THREADS=1    # threads only cost time here
    python benchmarks/shared_budget.py                                                 # about two minutes
    python benchmarks/shared_budget.py --json benchmarks/results/shared_budget.json    # likewise, and keep the figures
    python benchmarks/shared_budget.py --quick                                         # few runs

What an experiment should say is what would come of giving everybody the challenger, with all users and the whole
budget, less the same of the incumbent. It is known here, since both are played, too. In a shared budget the arm that
spends faster spends the other's money, so that it looks better for as long as there is any (Liu et al. 2021,
arXiv:2012.08724). With parts of their own (`Experiment.accounts`), each arm does in small what it would do alone.

A day's money is for a part of what either policy would like to spend, and goes to whoever comes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from _environment import environment, finish, simulation_options

from benchmarks.experiment_runs.judge import ALPHA, TIGHTEST_AT, upper_bound
from benchmarks.experiment_runs.table import shared_budget_table
from mtorl.experiment.arm import ALL_ARMS, INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.statistics import compare
from mtorl.experiment.sums import Floats, Sums

USERS, DAYS, VISITS = 4_000, 7, 3  # visits of a user on a day, on average
BUDGET = 1_200.0  # currency units a day, of all users
ARMS = ("challenger", INCUMBENT)
EXPERIMENT = Experiment.from_dict(
    {
        "name": "shared-budget",
        "enabled": True,
        "salt": "s",
        "unit": "user_id",
        "layer": "l",
        "stage": "50%",
        "arms": [{"name": arm, "weight": 0.5, "endpoint": "http://arm"} for arm in ARMS],
        "default_channel": "search",
        "budgets": [{"campaign": "*", "channel": "*", "amount": BUDGET, "period": "day", "pacing": None}],
        "metrics": {"primary": "click_per_decision"},
        "alpha": ALPHA,
        "min_runtime_hours": 0,
        "owner": "benchmarks",
    }
)
LIMITS = {account.arm: account.limit for account in EXPERIMENT.accounts()}


class Policy(NamedTuple):
    """What a policy pays for an exposure, how often that is clicked, and how good a user must be to be exposed to."""

    cost: float
    click: float
    """By a user of average interest."""
    least_interest: float = 0.0


class Kind(NamedTuple):
    """Two policies."""

    name: str
    challenger: Policy
    incumbent: Policy


KINDS = (
    Kind("the same policy", Policy(0.2, 0.08), Policy(0.2, 0.08)),
    Kind("dearer exposures, clicked more often", Policy(0.4, 0.11), Policy(0.2, 0.08)),
    Kind("fewer exposures, to users of more interest", Policy(0.2, 0.08, 0.8), Policy(0.2, 0.08)),
)


class Played(NamedTuple):
    """Clicks and decisions of each user, (U, 2), and what was spent."""

    figures: Floats
    spent: float


def play(kind: Kind, arm: np.ndarray, limits: Iterable[tuple[np.ndarray, float]], rng: np.random.Generator) -> Played:
    """An experiment, or a world with one policy.

    Args:
        kind: The policies.
        arm: Of each user, its place in ARMS, (U,).
        limits: Arms, (A,), and what they may spend together on a day.
        rng: Source of randomness.
    """
    policies = (kind.challenger, kind.incumbent)
    cost_A, click_A, least_A = (np.array([getattr(policy, name) for policy in policies]) for name in Policy._fields)
    interest = rng.lognormal(-0.125, 0.5, len(arm))
    figures, spent = np.zeros((len(arm), 2)), 0.0
    for _ in range(DAYS):
        user = rng.permutation(np.repeat(np.arange(len(arm)), rng.poisson(VISITS, len(arm))))
        arms = arm[user]
        price = cost_A[arms] * rng.uniform(0.5, 1.5, len(user))
        wants = interest[user] >= least_A[arms]
        exposed = np.zeros(len(user), dtype=bool)
        for of_arms, limit in limits:
            mine = wants & np.isin(arms, of_arms)
            exposed |= mine & (np.cumsum(np.where(mine, price, 0.0)) <= limit)
        clicks = exposed & (rng.random(len(user)) < np.minimum(click_A[arms] * interest[user], 1.0))
        np.add.at(figures, user, np.stack([clicks, np.ones(len(user))], -1))
        spent += float(price[exposed].sum())
    return Played(figures, spent)


BOTH, SPLIT = (
    [(np.arange(2), LIMITS[ALL_ARMS])],
    [(np.array([place]), LIMITS[arm]) for place, arm in enumerate(ARMS)],
)


def measure(kind: Kind, runs: int, seed: int) -> list[dict[str, Any]]:
    """Bias and coverage of either way to spend."""
    worlds = np.zeros((runs, 2))
    lifts: dict[str, list[tuple[float, float, float]]] = {"shared": [], "split": []}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        for place in range(2):
            clicks, decisions = play(kind, np.full(USERS, place), BOTH, rng).figures.sum(0)
            worlds[run, place] = clicks / decisions
        arm = rng.permutation(USERS) % 2
        for name, limits in (("shared", BOTH), ("split", SPLIT)):
            figures = play(kind, arm, limits, rng).figures
            there = figures[:, 1] > 0
            sums = Sums.of_rows(np.flatnonzero(there), arm[there], np.zeros_like(arm[there]), figures[there])
            lift = compare(sums, alpha=ALPHA, tightest_at=TIGHTEST_AT)
            lifts[name].append((lift.value, *lift.ci))
    of_worlds = worlds[:, 0] - worlds[:, 1]
    incumbent = float(worlds[:, 1].mean())
    if kind.challenger == kind.incumbent:
        of_worlds = np.zeros(runs)
    truth = float(of_worlds.mean())
    rows = []
    for name, found in lifts.items():
        value, low, high = np.array(found).T
        error = float(np.sqrt(value.var(ddof=1) / runs + of_worlds.var(ddof=1) / runs))
        missed = int(((low > truth) | (high < truth)).sum())
        wrong = int((low > 0.0).sum()) if truth <= 0.0 else int((high < 0.0).sum())
        rows.append(
            {
                "kind": kind.name,
                "budget": name,
                "runs": runs,
                "truth": truth / incumbent,
                "bias": (float(value.mean()) - truth) / incumbent,
                "bias_error": 1.96 * error / incumbent,
                "covered": 1.0 - missed / runs,
                "covered_at_least": 1.0 - upper_bound(missed, runs),
                "wrong": wrong / runs,
            }
        )
    return rows


def main() -> None:
    options = simulation_options(__doc__)
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        rows += measure(kind, 20 if options.quick else 1_000, options.seed)
        print(*rows[-2:], sep="\n", flush=True)
    figures = {"environment": environment(), "users": USERS, "days": DAYS, "rows": rows}
    print(shared_budget_table(figures))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
