"""How often an experiment is given up whose challenger is as good as planned, and what giving up saves.

    export OPENBLAS_NUM_THREADS=1    # threads only cost time here
    python benchmarks/futility.py                                            # about ten minutes
    python benchmarks/futility.py --json benchmarks/results/futility.json    # likewise, and keep the figures
    python benchmarks/futility.py --quick                                    # few runs

Experiments that are looked at every hour of four weeks end with the first of three verdicts: the challenger is better,
it is worse, or, with the effect that was planned for, it is futile to go on. The challenger's true effect is that one,
half of it, none, or the opposite.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from _environment import environment, finish, simulation_options

from benchmarks.experiment_runs import arrivals
from benchmarks.experiment_runs.judge import ALPHA, TIGHTEST_AT, upper_bound
from benchmarks.experiment_runs.markets import Clicks, Revenue
from benchmarks.experiment_runs.table import futility_table
from mtorl.experiment.statistics import confidence_sequence, estimate, one_sided_width
from mtorl.experiment.sums import NUMERATOR, Sums
from mtorl.experiment.verdict import FUTILITY_BETA

PLANNED: tuple[tuple[Clicks | Revenue, float], ...] = ((Clicks(lift=0.05), 0.5), (Clicks(lift=0.1), 0.1),
                                                       (Revenue(lift=0.5), 0.5))  # fmt: skip
TRUE = (1.0, 0.5, 0.0, -0.5)


def above(sums: Sums, effect: float) -> Sums:
    """As if the incumbent's outcomes were larger by an effect; of one stage."""
    times = np.ones((2, sums.totals.shape[-1]))
    times[1, NUMERATOR] = 1.0 + effect
    return Sums(
        sums.users,
        sums.positive,
        sums.totals * times[:, None],
        sums.products * np.outer(times.ravel(), times.ravel()),
    )


def outcomes(market: Clicks | Revenue, planned: float, share: float, runs: int, seed: int) -> dict[str, Any]:
    """How experiments end, and after which share of all users."""
    looks, rng = arrivals.looks("hourly", market.users), np.random.default_rng(seed)
    ends = {"better": 0, "worse": 0, "futile": 0, "ever futile": 0}
    used: list[float] = []
    for sums in arrivals.runs(market, share, looks, runs, rng):
        found, short = estimate(sums), estimate(above(sums, planned))
        low, high = confidence_sequence(
            found.value, found.se, found.effective_users, alpha=ALPHA, tightest_at=TIGHTEST_AT
        )
        width = one_sided_width(short.se, short.effective_users, alpha=FUTILITY_BETA, tightest_at=TIGHTEST_AT)
        futile = short.value + width < 0.0
        first = {
            "better": _first(low > 0.0),
            "worse": _first(high < 0.0),
            "futile": _first(futile),
        }
        ends["ever futile"] += int(futile.any(-1).sum())
        earliest = np.min(list(first.values()), axis=0)
        for name, at in first.items():
            ends[name] += int(((at == earliest) & (at < len(looks))).sum())
        used += (looks[np.minimum(earliest, len(looks) - 1)] / looks[-1]).tolist()
    return {
        **{name: count / runs for name, count in ends.items()},
        "futile_at_most": upper_bound(ends["ever futile"], runs),
        "users_share": float(np.mean(used)),
    }


def _first(said: np.ndarray) -> np.ndarray:
    """The first look at which it is, or their number."""
    return np.where(said.any(-1), said.argmax(-1), said.shape[-1])


def main() -> None:
    options = simulation_options(__doc__)
    runs, rows = 100 if options.quick else 2_000, []
    for market, share in PLANNED:
        for times in TRUE:
            found = outcomes(replace(market, lift=times * market.lift), market.lift, share, runs, options.seed)
            rows.append(
                {"market": market.name, "share": share, "planned": market.lift, "true": times * market.lift, **found}
            )
            print(rows[-1], flush=True)
    figures = {"environment": environment(), "runs": runs, "beta": FUTILITY_BETA, "rows": rows}
    print(futility_table(figures))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
