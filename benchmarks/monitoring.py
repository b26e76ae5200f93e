"""Measures the monitor: how often it raises a false alarm, how soon it raises a true one, and what a check costs.

    python benchmarks/monitoring.py --json benchmarks/results/monitoring.json     # a quarter of an hour, two processes
    python benchmarks/monitoring.py --quick

Some simulated markets do not change, except at weekends, so every alarm in them is false. Other markets change after
two weeks (`monitoring_runs/shifts.py`), and the script counts the days until an alarm.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

from _environment import environment, finish, parser

from benchmarks._process import run
from benchmarks.monitoring_runs.days import Days
from benchmarks.monitoring_runs.monitored import Monitored
from benchmarks.monitoring_runs.one_check import check_day, write_log
from benchmarks.monitoring_runs.shifts import SCENARIOS
from benchmarks.monitoring_runs.table import monitoring_tables

COLUMNS = 40
# Context columns that affect the market; the others are noise.
NAMED = 3
# Days after a change in a market.
LOOKED = 6
# Days before the change.
HEALTHY = 14


class Size(NamedTuple):
    """Numbers of markets, days and users to simulate.

    Attributes:
        clean_days: Days in a market without changes. On the first 9 days, the monitor only learns.
        markets: Pairs of numbers: users per day, and markets with this number of users.
    """

    clean_markets: int = 6
    clean_days: int = 95
    users_of_clean: int = 1_000
    markets: tuple[tuple[int, int], ...] = ((500, 12), (2_000, 12), (10_000, 6))
    season_markets: int = 8
    season_days: int = 35
    decisions: int = 1_000_000
    part: int = 20_000


QUICK = Size(1, 12, 300, ((300, 1),), 1, 12, 20_000, 10_000)


def clean(seed: int, size: Size) -> dict[str, int]:
    """Count the false alarms in a market with 40 context columns, in which nothing changes."""
    days = Days(size.users_of_clean, seed, moving_context=False, further=COLUMNS - NAMED)
    return _false_alarms(Monitored(days), size.clean_days)


def season(seed: int, size: Size) -> dict[str, int]:
    """Count the false alarms in a market in which click rates fall by 25 % at weekends."""
    return _false_alarms(Monitored(Days(2_000, seed, weekend=0.25, further=5)), size.season_days)


def _false_alarms(market: Monitored, days: int) -> dict[str, int]:
    judged = [told for told in (market.day() for _ in range(days)) if told.judged]
    return {
        "windows": len(judged),
        "pages": sum("harm" in told.kinds for told in judged),
        "measures": sum(told.of_measures for told in judged),
        "columns": sum(told.of_columns for told in judged),
    }


def power(seed: int, users: int) -> dict[str, dict[str, int | None]]:
    """Return, by scenario, the days until any alarm and until one of the right kind; None if there was none."""
    market = Monitored(Days(users, seed, moving_context=False, further=5))
    for _ in range(HEALTHY):
        market.day()
    found: dict[str, dict[str, int | None]] = {}
    for name, scenario in SCENARIOS.items():
        one = market.branch()
        if scenario.by_hours:
            found[name] = {"hours": one.hours_until_broken(scenario.shift)}
            continue
        first: dict[str, int | None] = dict.fromkeys(("any", "right"))
        for day in range(1, LOOKED + 1):
            told = one.day(scenario.shift)
            now = {"any": bool(told.kinds), "right": scenario.kind in told.kinds}
            first |= {key: day for key, happened in now.items() if happened and first[key] is None}
            if None not in first.values():
                break
        found[name] = first
    return found


def cost(size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="monitor-") as scratch:
        run(write_log, folder=scratch, decisions=size.decisions, part=size.part, further=COLUMNS - NAMED)
        runs = {name: run(check_day, folder=scratch, page=page) for name, page in (("page", True), ("no_page", False))}
    return {"decisions": size.decisions, "columns": COLUMNS, "runs": runs}


def in_processes(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function with each tuple of arguments in two processes."""
    started, results = time.monotonic(), []
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        for future in [processes.submit(function, *call) for call in calls]:
            results.append(future.result())
            print(f"{function.__name__} {len(results)}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return results


def main() -> None:
    options = parser(__doc__, "few runs")
    options.add_argument("--seed", type=int, default=7)
    args = options.parse_args()
    size, seed = QUICK if args.quick else Size(), args.seed
    figures = {
        "environment": environment("duckdb", "evidently"),
        "columns": COLUMNS,
        "looked": LOOKED,
        "users_of_clean": size.users_of_clean,
        "cost": cost(size),
        "clean": in_processes(clean, [(seed * 1_000 + i, size) for i in range(size.clean_markets)]),
        "season": in_processes(season, [(seed * 2_000 + i, size) for i in range(size.season_markets)]),
        "power": {
            str(users): in_processes(power, [(seed * 3_000 + i, users) for i in range(markets)])
            for users, markets in size.markets
        },
    }
    print(monitoring_tables(figures))
    finish(figures, args.json)


if __name__ == "__main__":
    main()
