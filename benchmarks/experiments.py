"""Measures how often verdicts on simulated experiments are wrong, and how often a verdict is reached.

    export OPENBLAS_NUM_THREADS=1    # more threads are slower here
    python benchmarks/experiments.py                                              # half an hour
    python benchmarks/experiments.py --json benchmarks/results/experiments.json   # the same, and write the figures
    python benchmarks/experiments.py --quick                                      # few runs

Each experiment is judged many times (looks), at alpha = 0.05.

    A/A         identical arms: how often the always-valid interval excludes zero at any look
    ramps       identical arms, the challenger's share grows 1 -> 5 -> 25 -> 50 %: users return and may change the arm
    returning   identical arms, one stage: users return
    coverage    a better challenger: how often the interval excludes the true lift at any look
    power       a better challenger: how often a verdict is reached, compared with a test of one look at the end
    guarded     experiments with guardrails
    uneven      identical arms; some users decide hundreds of times as often as others
    late        identical arms, but more outcomes of one arm arrive late
    paced       identical arms with a paced daily budget: how much gain an arm loses because it is small
"""

import time
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
from _environment import environment, finish, parser

from benchmarks.experiment_runs import arrivals, returning
from benchmarks.experiment_runs.guarded import MARGIN, guarded
from benchmarks.experiment_runs.judge import judge
from benchmarks.experiment_runs.late import late
from benchmarks.experiment_runs.markets import Clicks, Revenue
from benchmarks.experiment_runs.paced import paced
from benchmarks.experiment_runs.table import experiment_tables
from mtorl.experiment.inference.sums import Sums

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
KINDS = ("geometric", "hourly")
HEAVY = "revenue, heavier tail"
MARKETS: tuple[Clicks | Revenue, ...] = (
    Clicks(),
    Revenue(),
    Revenue(HEAVY, sigma=2.0),
    Clicks("clicks, with bots", bots=0.6),
    Clicks("clicks, with bots that click", bots=0.1, bot_rate=1.0),
    Revenue(f"{HEAVY}, with bots", sigma=2.0, bots=0.6),
)
# Differences of the arms' shares of late clicks.
LATE_GAPS = (0.0, 0.02, 0.03, 0.04, 0.08, 0.2)
GUARDED = (
    *((0.05, 0.0, 0.5), (0.1, 0.0, 0.5), (0.1, 0.0, 0.05)),
    *((lift, harm, share) for lift, harm in ((0.0, MARGIN), (0.1, MARGIN), (0.0, 2 * MARGIN)) for share in (0.05, 0.5)),
)
"""Simulated experiments with guardrails. Each has the lift of the primary metric, the harm to each guardrail metric,
and the challenger's share of the users."""
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
    figures["paced"] = paced(3 if options.quick else 200, options.seed)
    print(experiment_tables(figures))
    finish(figures, options.json)


def measure(runs: int, seed: int) -> dict[str, Any]:
    """Simulate all kinds of experiments except `paced`: fast kinds `runs` times, slow kinds less often."""
    streams = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(1_000))
    start = time.monotonic()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("uneven", "same", "ramps", "returning", "better")}

    def add(part: str, market: Clicks | Revenue, sums: Iterable[Sums], true_lift: float = 0.0, **what: Any) -> None:
        found[part].append({"market": market.name, **what, **judge(sums, true_lift)})
        missed = found[part][-1]["missed"]
        print(f"{time.monotonic() - start:5.0f} s  {part}, {market.name}, {what}: {missed:.2%}", flush=True)

    def one_stage(market: Clicks | Revenue, share: float, kind: str) -> Iterable[Sums]:
        return arrivals.runs(market, share, arrivals.looks(kind, market.users), runs, next(streams))

    for market, kind, share in product(MARKETS, KINDS, SHARES):
        add("same", market, one_stage(market, share, kind), looks=kind, share=share)
    # Returning users are slow to simulate, so they have fewer runs.
    few = runs // 4
    for market in MARKETS[:2]:
        sums = returning.ramps(market, market.population, 8, few, next(streams))
        add("ramps", market, sums, adjusted=False)
        for share in (0.05, 0.5):
            sums = returning.hours(market, share, market.population // 10, 7 * 24, few, next(streams))
            add("returning", market, sums, share=share)
    for market, share in product(BETTER, (0.05, 0.1, 0.5)):
        add("better", market, one_stage(market, share, "hourly"), market.true_lift, lift=market.lift, share=share)
    for market in MARKETS[:2]:
        sums = returning.ramps(market, market.population, 8, few, np.random.default_rng(seed), adjusted=True)
        add("ramps", market, sums, adjusted=True)
    found["uneven"] = [arrivals.uneven(share, runs, next(streams)) for share in (0.01, 0.05, 0.5)]
    found["late"] = [late(gap, few, next(streams)) for gap in LATE_GAPS]
    found["guarded"] = [row for one in GUARDED for row in guarded(*one, runs // 2, next(streams))]
    return found


if __name__ == "__main__":
    main()
