"""Whether an experiment that is as large as planned finds what it was planned to find, in simulated markets.

    export OPENBLAS_NUM_THREADS=1    # threads only cost time here
    python benchmarks/plan.py                                        # about a quarter of an hour
    python benchmarks/plan.py --json benchmarks/results/plan.json    # likewise, and keep the figures
    python benchmarks/plan.py --quick                                # few runs

A plan is made with users of a log, as `mtorl experiment plan` does; then experiments of as many new users are looked at
every hour of four weeks. A plan is as good as its log: beside a large log, ten small ones show what chance does.
The same with covariates: a past and a forecast, which a fifth of the users lack.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from _environment import environment, finish, simulation_options

from benchmarks.experiment_runs import adjusted, arrivals
from benchmarks.experiment_runs.judge import judge
from benchmarks.experiment_runs.markets import Clicks, Revenue
from mtorl.experiment.plan import Population, needed_users

MARKETS: tuple[Clicks | Revenue, ...] = (Clicks(lift=0.05), Clicks(lift=0.1), Clicks(lift=0.2), Revenue(lift=0.5))
KNOWN: tuple[Clicks, ...] = (Clicks(lift=0.1), Clicks(lift=0.2))
"""Markets of whose users something is known beforehand."""
LARGE, SMALL, LOGS = 500_000, 5_000, 10


def planned(market: Clicks | Revenue, users: int, seed: int, known: bool) -> tuple[int, float]:
    """Users that a plan asks for, made with a log of so many, and what it takes covariates to explain."""
    rng = np.random.default_rng([seed, users])
    rates = market.rates(rng, users)
    told = adjusted.covariates(market, rng, rates, np.zeros(users, dtype=bool)) if known else None
    population = Population(market.visit(rng, rates), isinstance(market, Clicks), told)
    found = needed_users(population, market.lift, 0.5, 0.05, seed=seed)
    assert found is not None
    return found.users, population.explained


def realised(market: Clicks | Revenue, users: int, runs: int, seed: int, known: bool) -> float:
    """Share of experiments with so many users that find the challenger better."""
    looks, rng = arrivals.looks("hourly", users), np.random.default_rng([seed, 1])
    played = (
        (sums for (sums,) in adjusted.runs(market, users, (0.5,), looks, runs, seed))
        if known
        else arrivals.runs(market, 0.5, looks, runs, rng)
    )
    return float(judge(played, market.true_lift)["decided"])


def main() -> None:
    options = simulation_options(__doc__)
    runs, logs = (100, 1) if options.quick else (2_000, LOGS)
    markets = MARKETS[1:3] if options.quick else MARKETS
    cases = [*((market, False) for market in markets), *((market, True) for market in KNOWN)]
    rows: list[dict[str, Any]] = []
    for market, known in cases:
        large, explained = planned(market, LARGE, options.seed, known)
        small = [planned(market, SMALL, options.seed + k, known)[0] for k in range(logs)]
        row = {
            "market": market.name,
            "lift": market.lift,
            "known": known,
            "explained": explained,
            "users": large,
            "power": realised(dataclasses.replace(market, users=large), large, runs, options.seed, known),
            "users_small": [min(small), float(np.median(small)), max(small)],
        }
        rows.append(row)
        print(row, flush=True)
    finish({"environment": environment(), "runs": runs, "large": LARGE, "small": SMALL, "logs": logs, "rows": rows},
           options.json)  # fmt: skip


if __name__ == "__main__":
    main()
