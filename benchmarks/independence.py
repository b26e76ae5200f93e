"""Whether the arms of one experiment say anything about those of another: phi of each pair of experiments.

    python benchmarks/independence.py                                                  # a minute
    python benchmarks/independence.py --json benchmarks/results/independence.json      # likewise, and keep the figures
    python benchmarks/independence.py --quick                                          # fewer users

Where users of one experiment's challenger are more often those of another's, each measures a part of the other. Phi is
the correlation of two such columns, 0 for independent ones but for chance, whose 99 % bound for the largest of all
pairs is shown. Beside the assignment of this project stands a cheap hash of a text put together, as CaraML XP has it:
fnv32a("unit-experiment") modulo 100 (https://github.com/caraml-dev/xp).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from _environment import environment, finish
from scipy.stats import norm

from benchmarks._markdown import measured_on, table
from mtorl.experiment.assignment import assign

EXPERIMENTS = (11, 12, 13, 117, 118, 119)


def ours(unit: int, experiment: int) -> bool:
    shares = {"incumbent": 0.5, "challenger": 0.5}
    return assign(("arm", "layer", f"experiment-{experiment}", "salt"), str(unit), shares) == "challenger"


def fnv32a(unit: int, experiment: int) -> bool:
    value = 2166136261
    for byte in f"{unit}-{experiment}".encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % 100 >= 50


def measure(name: str, arm: Callable[[int, int], bool], users: int) -> dict[str, Any]:
    """Phi of all pairs of experiments.

    Args:
        name: Of the hash.
        arm: Whether a unit gets the challenger of an experiment.
        users: How many units.
    """
    columns = {one: np.array([arm(unit, one) for unit in range(users)], dtype=float) for one in EXPERIMENTS}
    pairs = {f"{a} and {b}": float(np.corrcoef(columns[a], columns[b])[0, 1]) for a, b in combinations(EXPERIMENTS, 2)}
    worst = max(pairs, key=lambda pair: abs(pairs[pair]))
    return {"name": name, "pair": worst, "phi": pairs[worst], "pairs": pairs}


def independence_table(figures: dict[str, Any]) -> str:
    """The largest correlation of each hash."""
    rows = [[one["name"], one["pair"], f"{one['phi']:+.4f}"] for one in figures["hashes"]]
    return (
        f"{figures['users']:,} users, half of them in the challenger of each of {len(EXPERIMENTS)} experiments. Of "
        f"independent ones, the largest |phi| is below {figures['bound']:.4f} in 99 % of such tries.\n\n"
        + table(["arms by", "the pair with the largest phi", "phi"], rows)
        + measured_on(figures, "independence.py")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="fewer users")
    options = parser.parse_args()
    users = 20_000 if options.quick else 200_000
    pairs = math.comb(len(EXPERIMENTS), 2)
    hashes = [
        measure("this project's assignment", ours, users),
        measure('fnv32a("unit-experiment") % 100', fnv32a, users),
    ]
    bound = float(norm.ppf(1.0 - 0.01 / (2 * pairs))) / math.sqrt(users)
    figures = {"environment": environment(), "users": users, "bound": bound, "hashes": hashes}
    print(independence_table(figures))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
