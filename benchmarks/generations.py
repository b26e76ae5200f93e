"""Learning from one's own decisions, night after night, where the truth is known: on the simulator.

    python benchmarks/generations.py             # two markets, eight nights, an hour
    python benchmarks/generations.py --quick     # one small market, one night

A first model learns from a log of wide choices. Then, each night: newcomers are served, their decisions are collected,
the next model learns from all that is there, and the gate says whether it serves from then on. Beside the way that this
project ships stand careless ones.

    worth        clicks per decision of the model that serves, at equal money, with newcomers whom nobody learns from
    AUC          of the newest model's reward head, on states of the first log
    estimate     the evaluation's value of the newest model, over the true one at the same decisions
    covered      how often the estimate's 95 % interval holds the true value
    gate         what it promoted of the models that were truly better than the one that serves, and of those worse

Nothing here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish

from benchmarks.generation_runs.ways import WAYS, Way

SEEDS = (1, 2)
USERS, EPOCHS, NIGHTS = 2000, 6, 8


def one_way(way: Way, seeds: tuple[int, ...], users: int, epochs: int, number: int) -> list[list[dict[str, Any]]]:
    """Figures of each night, by market."""
    from benchmarks.generation_runs.market import nights  # brings torch, which --help does not need

    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            market = []
            for row in nights(way, seed, users, epochs, number, Path(folder)):
                market.append(row)
                print(f"{way.name}, seed {seed}, night {row['night']}: {_in_short(row)}", flush=True)
            found.append(market)
    return found


def _in_short(row: dict[str, Any]) -> str:
    text = f"worth {row['worth']:.4f}, AUC {row['auc']:.3f}"
    if row["night"]:
        text += f", {'promoted' if row['promoted'] else 'rejected'} {row['candidate_worth']:.4f}"
        text += f" (difference {row['difference']:+.4f} > {row['lower_bound']:+.4f}, true "
        text += f"{row['true_difference']:+.4f}); "
        text += f"value {row['estimate']:.4f} of {row['truth']:.4f}, weight {row['mean_weight']:.2f}"
    return text


def summary(markets: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over markets and nights, with the worst of what has a bound."""
    later = [row for market in markets for row in market[1:]]
    worth_MN = np.array([[row["worth"] for row in market] for market in markets])
    auc_MN = np.array([[row["auc"] for row in market] for market in markets])
    better = [row["promoted"] for row in later if row["candidate_worth"] > row["served_worth"]]
    worse = [row["promoted"] for row in later if row["candidate_worth"] <= row["served_worth"]]
    return {
        "worth": worth_MN.mean(axis=0).tolist(),
        "last_over_first": (worth_MN[:, -1] / worth_MN[:, 0] - 1).tolist(),
        "newest_over_first": [market[-1]["candidate_worth"] / market[0]["worth"] - 1 for market in markets],
        "largest_fall": float((worth_MN[:, 1:] / worth_MN[:, :-1] - 1).min()),
        "auc": auc_MN.mean(axis=0).tolist(),
        "auc_least_change": float((auc_MN - auc_MN[:, :1]).min()),
        "estimate_over_truth": float(np.mean([row["estimate"] / row["truth"] - 1 for row in later])),
        "covered": float(np.mean([row["covered"] for row in later])),
        "difference_covered": float(np.mean([row["difference_covered"] for row in later])),
        "mean_weight": float(np.mean([row["mean_weight"] for row in later])),
        "impossible": float(np.mean([row["impossible"] for row in later])),
        "better": [sum(better), len(better)],
        "worse": [sum(worse), len(worse)],
        "entropy": np.mean([[row["entropy"] for row in market[1:]] for market in markets], axis=0).tolist(),
        "spent_share": float(np.mean([row["spent_share"] for row in later])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small market, one night, one epoch")
    parser.add_argument("--way", type=int, choices=range(len(WAYS)), action="append", help="only this one; may repeat")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()
    size = ((1,), 400, 1, 1) if arguments.quick else (SEEDS, USERS, EPOCHS, NIGHTS)
    ways = [WAYS[i] for i in arguments.way] if arguments.way else WAYS
    figures = {way.name: summary(one_way(way, *size)) for way in ways}
    for name, one in figures.items():
        print(f"\n{name}")
        for key, value in one.items():
            print(f"  {key:<20} {value}")
    settings = {"seeds": len(size[0]), "users": size[1], "nights": size[3]}
    finish({**settings, "ways": figures, "environment": environment("torch", "numpy", "duckdb")}, arguments.json)


if __name__ == "__main__":
    main()
