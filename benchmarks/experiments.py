"""How often the verdict on an experiment is wrong, and how often it is reached, in simulated experiments.

    export OPENBLAS_NUM_THREADS=1    # threads only cost time here
    python benchmarks/experiments.py                                              # a quarter of an hour
    python benchmarks/experiments.py --json benchmarks/results/experiments.json   # likewise, and keep the figures
    python benchmarks/experiments.py --quick                                      # few runs

Experiments are judged at every look by the functions that the verdict calls (`mtorl.experiment`), at alpha = 0.05.

    A/A         both arms alike: how often the always-valid interval ever leaves zero, at any look
    ramps       1 -> 5 -> 25 -> 50 %, users come back in later stages and move to the challenger; also with covariates
    returning   one stage, users come back: their sums grow while people look every hour
    coverage    the challenger is better: how often the interval ever misses the true lift
    power       the same: how often a verdict is reached at all, beside a test of one look at the end
    uneven      users decide by a factor of hundreds more or less often
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from _environment import environment, finish, parser

from benchmarks.experiment_runs import arrivals, returning
from benchmarks.experiment_runs.judge import judge
from benchmarks.experiment_runs.markets import Clicks, Revenue
from benchmarks.experiment_runs.table import experiment_tables
from mtorl.experiment.inference.sums import Sums

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
KINDS = ("geometric", "linear", "hourly")
HEAVY = "revenue, heavier tail"
MARKETS: tuple[Clicks | Revenue, ...] = (
    Clicks(),
    Revenue(),
    Revenue(HEAVY, sigma=2.0),
    Clicks("clicks, with bots", bots=0.001),
)
BETTER: tuple[Clicks | Revenue, ...] = (
    Clicks(lift=0.05),
    Clicks(lift=0.1),
    Revenue(lift=0.1),
    Revenue(lift=0.5),
    Revenue(HEAVY, sigma=2.0, lift=0.5),
)


def main() -> None:
    made = parser(__doc__, "few runs")
    made.add_argument("--seed", type=int, default=7)
    options = made.parse_args()
    figures = {"environment": environment(), **measure(50 if options.quick else 2_000, options.seed)}
    print(experiment_tables(figures))
    finish(figures, options.json)


def measure(runs: int, seed: int) -> dict[str, Any]:
    """All figures, from `runs` experiments of each kind."""
    streams = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(1_000))
    start = time.monotonic()

    def say(what: str, result: dict[str, Any]) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {what}: {result['missed']:.2%}", flush=True)

    def one_stage(market: Clicks | Revenue, share: float, kind: str) -> Iterator[Sums]:
        looks = arrivals.looks(kind, market.users)
        return arrivals.runs(market, share, looks, runs, next(streams))

    same, ramps, back, better = [], [], [], []
    for market in MARKETS:
        for kind in KINDS:
            for share in SHARES:
                result = judge(one_stage(market, share, kind), 0.0)
                same.append({"market": market.name, "looks": kind, "share": share, **result})
                say(f"A/A, {market.name}, {kind}, {share:.0%}", result)
    for market in MARKETS[:2]:
        result = judge(returning.ramps(market, market.population, 8, runs, next(streams)), 0.0)
        ramps.append({"market": market.name, "adjusted": False, **result})
        say(f"ramp, {market.name}", result)
        for share in (0.05, 0.5):
            sums = returning.hours(market, share, market.population // 10, 7 * 24, runs, next(streams))
            result = judge(sums, 0.0)
            back.append({"market": market.name, "share": share, **result})
            say(f"returning, {market.name}, {share:.0%}", result)
    for market in BETTER:
        for share in (0.05, 0.1, 0.5):
            result = judge(one_stage(market, share, "hourly"), market.true_lift)
            better.append({"market": market.name, "lift": market.lift, "share": share, **result})
            say(f"lift {market.lift:.0%}, {market.name}, {share:.0%}", result)
    for market in MARKETS[:2]:
        rng = np.random.default_rng(seed)
        result = judge(returning.ramps(market, market.population, 8, runs, rng, adjusted=True), 0.0)
        ramps.append({"market": market.name, "adjusted": True, **result})
        say(f"ramp with covariates, {market.name}", result)
    return {
        "uneven": [arrivals.uneven(share, runs, next(streams)) for share in (0.01, 0.05, 0.5)],
        "same": same,
        "ramps": ramps,
        "returning": back,
        "better": better,
    }


if __name__ == "__main__":
    main()
