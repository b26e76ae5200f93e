"""Whether pacing treats the arms of an experiment alike: one policy in both arms, over whole days.

    python benchmarks/pacing.py             # a few minutes
    python benchmarks/pacing.py --quick     # less than one, with wide intervals

Both arms are served by the same policy in the same market, so the true lift is 0, and every verdict but "inconclusive"
is wrong. An arm that is paced worse than the other earns less with the same money (`benchmarks/pacing_runs/days.py`).

Lift: gain per decision, challenger less incumbent, over the stages as a verdict takes it. Much of it is luck in users.
What the same opportunities earn at one constant price without a budget has the same luck, and a mean difference of 0:
the lift is adjusted by its regression on that (a control variate). Intervals of 95 % are over seeds. Nothing here
depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from _environment import environment, finish
from scipy.stats import t

from benchmarks.pacing_runs.days import Kind, Phase, Run, run
from benchmarks.pacing_runs.table import pacing_table

SEEDS, QUICK_SEEDS = 40, 4
SMALL, LARGE = 2_000, 13_600  # decisions a day: at 5 %, the challenger has money for 25 and for 170 exposures
RAMP = (Phase(36, "1%"), Phase(24, "5%"), Phase(24, "25%"), Phase(36, "50%"))  # changes at noon


def kinds() -> list[Kind]:
    """All kinds of run."""
    two_days = {stage: (Phase(48, stage),) for stage in ("1%", "5%", "25%", "50%")}
    killed = (Phase(14, "5%"), Phase(2, "5%", enabled=False), Phase(8, "5%"))
    return [
        *(Kind(f"{stage}, day", phases, daily) for daily in (SMALL, LARGE) for stage, phases in two_days.items()),
        *(Kind("ramp, day", RAMP, daily) for daily in (SMALL, LARGE)),
        *(Kind("ramp, total with start and end", RAMP, daily, "time") for daily in (SMALL, LARGE)),
        *(Kind("ramp, total with opportunities", RAMP, daily, "count") for daily in (SMALL, LARGE)),
        Kind("5%, day, switched off from 14:00 to 16:00", killed, LARGE),
        Kind("5%, day, installed at 16:00", (Phase(8, "5%"),), LARGE, start_hour=16),
        Kind("5%, day, no price stated", two_days["5%"], LARGE, price_is_stated=False),
        Kind("5%, day, three routers", two_days["5%"], LARGE, routers=3),
        Kind("ramp, total with opportunities, three routers", RAMP, SMALL, "count", routers=3),
    ]


def over_seeds(kind: Kind, runs: Sequence[Run]) -> dict[str, Any]:
    """Means, the adjusted lift with its interval, and the verdicts."""
    lift, control = np.array([one.lift for one in runs]), np.array([one.control for one in runs])
    incumbent = float(np.mean([one.incumbent for one in runs]))
    slope = float(np.cov(lift, control)[0, 1] / control.var(ddof=1))
    adjusted = lift - slope * control
    error = float(np.sqrt(adjusted.var(ddof=1) * (len(runs) - 1) / (len(runs) - 2) / len(runs)))
    challenger, other = np.mean([one.spent for one in runs], axis=0)
    return {
        "kind": kind.name,
        "decisions_a_day": kind.decisions,
        "days": kind.days,
        "seeds": len(runs),
        "spent_challenger": float(challenger),
        "spent_incumbent": float(other),
        "lift": float(adjusted.mean()) / incumbent,
        "lift_margin": float(t.ppf(0.975, len(runs) - 2)) * error / incumbent,
        "lift_unadjusted": float(lift.mean()) / incumbent,
        "verdicts": dict(Counter(one.verdict for one in runs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds instead of {SEEDS}")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    parser.add_argument("--only", default="", metavar="TEXT", help="kinds whose name contains it")
    arguments = parser.parse_args()
    seeds = range(QUICK_SEEDS if arguments.quick else SEEDS)
    found = []
    with ProcessPoolExecutor() as pool:
        for kind in (kind for kind in kinds() if arguments.only in kind.name):
            started = time.monotonic()
            found.append(over_seeds(kind, list(pool.map(partial(run, kind), seeds))))
            print(f"{kind.name}, {kind.decisions:,}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    figures = {"kinds": found, "environment": environment("numpy")}
    print(pacing_table(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
