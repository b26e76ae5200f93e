"""Whether an experiment that is as large as planned finds what it was planned to find, in simulated markets.

    export OPENBLAS_NUM_THREADS=1    # threads only cost time here
    python benchmarks/plan.py                                        # about five minutes
    python benchmarks/plan.py --json benchmarks/results/plan.json    # likewise, and keep the figures
    python benchmarks/plan.py --quick                                # few runs

A plan is made with users of a log, as `mtorl experiment plan` does; then experiments of as many new users are looked at
every hour of four weeks. A plan is as good as its log: beside a large log, ten small ones show what chance does.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from _environment import environment, finish, simulation_options

from benchmarks.experiment_runs import arrivals
from benchmarks.experiment_runs.judge import judge
from benchmarks.experiment_runs.markets import Clicks, Revenue
from mtorl.experiment.plan import Population, needed_users

MARKETS: tuple[Clicks | Revenue, ...] = (Clicks(lift=0.05), Clicks(lift=0.1), Clicks(lift=0.2), Revenue(lift=0.5))
LARGE, SMALL, LOGS = 500_000, 5_000, 10


def planned(market: Clicks | Revenue, users: int, seed: int) -> int:
    """Users that a plan asks for, made with a log of so many."""
    rng = np.random.default_rng([seed, users])
    figures = market.visit(rng, market.rates(rng, users))
    found = needed_users(Population(figures, isinstance(market, Clicks)), market.lift, 0.5, 0.05, seed=seed)
    assert found is not None
    return found.users


def realised(market: Clicks | Revenue, users: int, runs: int, seed: int) -> float:
    """Share of experiments with so many users that find the challenger better."""
    looks, rng = arrivals.looks("hourly", users), np.random.default_rng([seed, 1])
    return float(judge(arrivals.runs(market, 0.5, looks, runs, rng), market.true_lift)["decided"])


def main() -> None:
    options = simulation_options(__doc__)
    runs, logs = (100, 1) if options.quick else (2_000, LOGS)
    markets = MARKETS[1:3] if options.quick else MARKETS
    rows: list[dict[str, Any]] = []
    for market in markets:
        large = planned(market, LARGE, options.seed)
        small = [planned(market, SMALL, options.seed + k) for k in range(logs)]
        row = {
            "market": market.name,
            "lift": market.lift,
            "users": large,
            "power": realised(dataclasses.replace(market, users=large), large, runs, options.seed),
            "users_small": [min(small), float(np.median(small)), max(small)],
        }
        rows.append(row)
        print(row, flush=True)
    finish({"environment": environment(), "runs": runs, "large": LARGE, "small": SMALL, "logs": logs, "rows": rows},
           options.json)  # fmt: skip


if __name__ == "__main__":
    main()
