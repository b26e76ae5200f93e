"""Measures how much gain policies get from a budget, relative to the best known policy, on the simulator.

    python benchmarks/regret.py --json FILE             # ten markets; FILE is written after each
    python benchmarks/regret.py --json FILE --resume    # keep the markets in FILE
    python benchmarks/regret.py --json FILE --larger 24000    # add three markets with a longer log
    python benchmarks/regret.py --quick                 # one small market, 5 rounds

All policies have the same budget and pacing, with two kinds of forecasts:

    learned     MTORL's network, or LightGBM with the same inputs
    informed    Bayes' rule with the market's true parameters (`mtorl/simulator/informed.py`)

The best known policy uses informed forecasts and looks three opportunities ahead.
"""

import json
from pathlib import Path
from typing import Any

from _environment import environment, finish, kept_markets, parser

from benchmarks.regret_runs.market import market
from benchmarks.regret_runs.table import BEST, regret_tables
from mtorl.simulator.simulator import SimulatorConfig

SEEDS = tuple(range(1, 11))


def main() -> None:
    options = parser(__doc__, "one market of 1,000 users, two epochs, 5 rounds")
    options.add_argument("--resume", action="store_true", help="keep the markets in FILE; measure the others")
    options.add_argument("--larger", type=int, metavar="USERS", help="add three markets with this many users to FILE")
    arguments = options.parse_args()
    settings: dict[str, Any] = {"users": SimulatorConfig.users, "epochs": 12, "rounds": [5, 15, 40]}
    if arguments.quick:
        settings = {"users": 1000, "epochs": 2, "rounds": [5]}
    figures = {"settings": settings, "markets": {}, "environment": environment("torch", "numpy", "lightgbm")}
    if (arguments.resume or arguments.larger) and kept_markets(options, arguments.json, settings):
        figures = json.loads(Path(arguments.json).read_text())
    if arguments.larger:
        larger = figures.setdefault("larger", {}).setdefault(str(arguments.larger), {})
        for seed in SEEDS[:3]:
            larger[str(seed)] = market(seed, arguments.larger, settings["epochs"], (5, 15), ("served", BEST))
            finish(figures, arguments.json)
    for seed in SEEDS[:1] if arguments.quick else SEEDS:
        if str(seed) not in figures["markets"]:
            figures["markets"][str(seed)] = market(seed, **settings)
            finish(figures, arguments.json)
    print(regret_tables(figures))


if __name__ == "__main__":
    main()
