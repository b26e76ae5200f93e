"""Measures what policies earn with a budget, as a share of the best informed policy, on the simulator.

    python benchmarks/regret.py --json FILE             # ten markets; FILE is written after each
    python benchmarks/regret.py --json FILE --resume    # keep the markets that FILE has
    python benchmarks/regret.py --json FILE --larger 24000    # add three markets with a longer log
    python benchmarks/regret.py --quick                 # one small market, 5 rounds

In each market MTORL is trained on some users; held-out ones are served for 5, 15 and 40 rounds, with the same money for
each opportunity. All policies are paced alike (`mtorl/policy/pacing.py`), and both forecasts are played in the same
greedy rule, gain less price times cost:

    learned     MTORL's network, or LightGBM with the same inputs
    informed    Bayes' rule with the market's own numbers (`mtorl/simulator/informed.py`)

The best informed policy looks three opportunities ahead. The difference to the served policy is split into when to
expose, the value of the future, the choice of the channel, and the soft draw with its exploration. Nothing here depends
on the machine's speed.
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
    options.add_argument("--resume", action="store_true", help="keep the markets of FILE; measure the others")
    options.add_argument("--larger", type=int, metavar="USERS", help="three markets of so many users, beside FILE's")
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
