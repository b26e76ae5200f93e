"""What it brings to adjust a lift by what is known of the users beforehand, and that it keeps the error rate.

export OPENBLAS_NUM_THREADS=1    # threads only cost time here
python benchmarks/adjustment.py                                              # half an hour, on two cores
python benchmarks/adjustment.py --json benchmarks/results/adjustment.json    # likewise, and keep the figures
python benchmarks/adjustment.py --quick                                      # few runs

error rates   the A/A experiments, ramps and lifts of `experiments.py`, of users with a past and a forecast; some
have neither
users         on the project's simulator: after how many users 80 % of the experiments have found the challenger
better, without covariates and with each kind of them
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from _environment import environment, finish, simulation_options

from benchmarks.experiment_runs import adjusted, arrivals, returning
from benchmarks.experiment_runs.judge import Judged, judge, look, together
from benchmarks.experiment_runs.known_users import CASES, needed
from benchmarks.experiment_runs.markets import Clicks, Revenue
from benchmarks.experiment_runs.table import adjustment_tables
from mtorl.experiment.sums import Sums

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
KINDS = ("geometric", "linear", "hourly")
MARKETS: tuple[Clicks | Revenue, ...] = (
    Clicks(users=40_000),
    Revenue(users=60_000),
    Revenue("revenue, heavier tail", sigma=2.0, users=60_000),
    Clicks("clicks, with bots", bots=0.001, users=40_000),
)
BETTER: tuple[Clicks | Revenue, ...] = (Clicks(lift=0.1, users=40_000), Revenue(lift=0.5, users=60_000))


def same(market: Clicks | Revenue, runs: int, seed: int) -> list[dict[str, Any]]:
    """A/A experiments; one run is looked at in all three ways, by all shares."""
    looks = {kind: arrivals.looks(kind, market.users) for kind in KINDS}
    every = np.unique(np.concatenate([*looks.values()]))
    places = {kind: np.searchsorted(every, of_kind) for kind, of_kind in looks.items()}
    judged: dict[tuple[str, float], list[Judged]] = {(kind, share): [] for kind in KINDS for share in SHARES}
    for of_share in adjusted.runs(market, market.users, SHARES, every, runs, seed):
        for share, sums in zip(SHARES, of_share, strict=True):
            for kind, at in places.items():
                judged[kind, share].append(look(_part(sums, at), 0.0))
    return [
        {"market": market.name, "looks": kind, "share": share, **together(found)}
        for (kind, share), found in judged.items()
    ]


def better(market: Clicks | Revenue, runs: int, seed: int) -> list[dict[str, Any]]:
    """The challenger is better, hourly looks; beside it the same users without covariates."""
    looks, shares = arrivals.looks("hourly", market.users), (0.05, 0.5)
    found: dict[tuple[float, bool], list[Judged]] = {}
    for of_share in adjusted.runs(market, market.users, shares, looks, runs, seed):
        for share, sums in zip(shares, of_share, strict=True):
            for with_them, judged in ((True, sums), (False, adjusted.unadjusted(sums))):
                found.setdefault((share, with_them), []).append(look(judged, market.true_lift))
    return [
        {"market": market.name, "lift": market.lift, "share": share, "adjusted": with_them, **together(results)}
        for (share, with_them), results in found.items()
    ]


def ramp(market: Clicks | Revenue, runs: int, seed: int) -> list[dict[str, Any]]:
    """A/A over a ramp; users come back."""
    sums = returning.ramps(market, market.population, 8, runs, np.random.default_rng(seed), adjusted=True)
    return [{"market": market.name, **judge(sums, 0.0)}]


def _part(sums: Sums, at: np.ndarray) -> Sums:
    return Sums(sums.users[at], sums.positive[at], sums.totals[at], sums.products[at])


def main() -> None:
    options = simulation_options(__doc__)
    runs, users = (20, 4_000) if options.quick else (2_000, 60_000)
    figures: dict[str, Any] = {"environment": environment(), "runs": runs}
    with ProcessPoolExecutor(2) as processes:
        tasks = {
            "users": [processes.submit(needed, case, users, 50 if options.quick else 500) for case in CASES],
            "ramps": [processes.submit(ramp, market, runs, options.seed) for market in MARKETS[:2]],
            "same": [processes.submit(same, market, runs, options.seed) for market in MARKETS],
            "better": [processes.submit(better, market, runs, options.seed) for market in BETTER],
        }
        for name, futures in tasks.items():
            figures[name] = []
            for future in futures:
                figures[name] += future.result()
                print(name, figures[name][-1], flush=True)
    print(adjustment_tables(figures))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
