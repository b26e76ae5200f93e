"""Learning from one's own decisions, night after night, where the truth is known: on the simulator.

    python benchmarks/generations.py --json FILE # five markets, eight nights: some hours; resumes after an interruption
    python benchmarks/generations.py --quick     # one small market, one night

A first model learns from a log of wide choices. Then, each night: newcomers are served, their decisions are uploaded,
the next model learns from all decisions so far, and the gate decides whether it serves from then on.

    worth        clicks per decision of the model that serves, at equal money, with newcomers whom nobody learns from
    AUC          of the newest model's reward head, on states of the first log
    estimate     the evaluation's value of the newest model, over the true one at the same decisions
    covered      how often the estimate's 95 % interval holds the true value
    gate         what it promoted of the models that are worth more, at the very states of the log, than the one that
                 serves: by 5 % or more, by 2 % or more, by less; and of those that are worth less

Nothing here depends on the machine's speed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish, parser

from benchmarks._markdown import Figures, measured_on, table
from mtorl.evaluation.gate import MAX_IMPOSSIBLE
from mtorl.log.splits import SHARES

SEEDS = (1, 2, 3, 4, 5)
USERS, EPOCHS, NIGHTS = 2000, 6, 8


def one_market(seed: int, users: int, epochs: int, number: int) -> list[dict[str, Any]]:
    """Figures of each night."""
    from benchmarks.generation_runs.market import nights  # brings torch, which --help does not need

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in nights(seed, users, epochs, number, Path(folder)):
            found.append(row)
            gate = {True: "promoted", False: "rejected", None: "first"}[row.get("promoted")]
            figures = f"worth {row['worth']:.4f}, AUC {row['auc']:.3f}, {gate}"
            print(f"seed {seed}, night {row['night']}: {figures}", flush=True)
    plain: list[dict[str, Any]] = json.loads(json.dumps(found, default=float))
    return plain


def summary(markets: list[list[dict[str, Any]]], users: int) -> dict[str, Any]:
    """Means over markets and nights, with the worst of what has a bound; `users` are newcomers a night."""
    later = [row for market in markets for row in market[1:]]
    worth_MN = np.array([[row["worth"] for row in market] for market in markets])
    auc_MN = np.array([[row["auc"] for row in market] for market in markets])
    gains = [(row["promoted"], row["true_difference"] / (row["truth"] - row["true_difference"])) for row in later]
    return {
        "worth": worth_MN.mean(axis=0).tolist(),
        "last_over_first": (worth_MN[:, -1] / worth_MN[:, 0] - 1).tolist(),
        "newest_over_first": [market[-1]["candidate_worth"] / market[0]["worth"] - 1 for market in markets],
        "largest_fall": float((worth_MN[:, 1:] / worth_MN[:, :-1] - 1).min()),
        "auc": auc_MN.mean(axis=0).tolist(),
        "estimate_over_truth": float(np.mean([row["estimate"] / row["truth"] - 1 for row in later])),
        "covered": float(np.mean([row["covered"] for row in later])),
        "difference_covered": float(np.mean([row["difference_covered"] for row in later])),
        "half_width": [float(np.mean([_half_width(market[night]) for market in markets])) for night in (1, -1)],
        "test_users_for": {f"{gain:.0%}": _test_users_for(gain, markets, users) for gain in (0.05, 0.02)},
        "mean_weight": float(np.mean([row["mean_weight"] for row in later])),
        "impossible": float(np.mean([row["impossible"] for row in later])),
        "forecast": float(np.mean([row["forecast"] for row in later])),
        "much_better": _promoted([promoted for promoted, gain in gains if gain >= 0.05]),
        "better": _promoted([promoted for promoted, gain in gains if 0.02 <= gain < 0.05]),
        "alike": _promoted([promoted for promoted, gain in gains if 0 <= gain < 0.02]),
        "worse": _promoted([promoted for promoted, gain in gains if gain < 0]),
        "entropy": np.mean([[row["entropy"] for row in market[1:]] for market in markets], axis=0).tolist(),
        "spent_share": float(np.mean([row["spent_share"] for row in later])),
    }


def _half_width(row: dict[str, Any]) -> float:
    """Of the difference's interval, below it, as a share of the value of the policy that serves."""
    return float((row["difference"] - row["lower_bound"]) / (row["truth"] - row["true_difference"]))


def _test_users_for(gain: float, markets: list[list[dict[str, Any]]], users: int) -> float:
    """With so many test users, 80 % of what is better by a share of the value passes, since intervals narrow with them.

    A gain passes in 80 % if it exceeds the half-width, which is 1.96 standard errors, by .84 more of them.
    """
    share = dict(SHARES)["test"]
    of_one = np.mean([_half_width(row) * (share * users * row["night"]) ** 0.5 for of in markets for row in of[1:]])
    return float((of_one * (1 + 0.84 / 1.96) / gain) ** 2)


def _promoted(decisions: list[bool]) -> list[int]:
    return [sum(decisions), len(decisions)]


def main() -> None:
    options = parser(__doc__, "one small market, one night, one epoch")
    arguments = options.parse_args()
    users, epochs, number = (400, 1, 1) if arguments.quick else (USERS, EPOCHS, NIGHTS)
    figures: dict[str, Any] = {"users": users, "nights": number, "markets": {}}
    if arguments.json and Path(arguments.json).exists():
        before = json.loads(Path(arguments.json).read_text())
        figures = before if [before[name] for name in ("users", "nights")] == [users, number] else figures
    figures["environment"] = environment("torch", "numpy", "duckdb")
    markets = figures["markets"]
    for seed in (1,) if arguments.quick else SEEDS:
        if str(seed) not in markets:
            markets[str(seed)] = one_market(seed, users, epochs, number)
        figures["summary"] = summary([markets[name] for name in sorted(markets)], users)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    print(generations_table(figures))
    finish(figures, arguments.json)


def _changes(each: list[float]) -> str:
    return ", ".join(f"{change:+.1%}" for change in each)


def _enough(one: Figures) -> str:
    """Numbers of test users, of which two digits are known; where the gate refuses or errs, more do not help."""
    if one["impossible"] > MAX_IMPOSSIBLE or one["difference_covered"] < 0.9:
        return "no number"
    return ", ".join(f"{float(format(one['test_users_for'][gain], '.2g')):,.0f}" for gain in ("5%", "2%"))


def generations_table(figures: Figures) -> str:
    """Learning from own decisions, a row a figure."""
    one = figures["summary"]
    rows = {
        "markets": str(len(figures["markets"])),
        "worth, first and last": f"{one['worth'][0]:.4f}, {one['worth'][-1]:.4f}",
        "last over first, each market": _changes(one["last_over_first"]),
        "newest model over first, served or not": _changes(one["newest_over_first"]),
        "largest fall in a night": f"{one['largest_fall']:+.1%}",
        "AUC, first and last": f"{one['auc'][0]:.3f}, {one['auc'][-1]:.3f}",
        "estimate over truth": f"{one['estimate_over_truth']:+.1%}",
        "intervals that hold the value": f"{one['covered']:.0%}",
        "intervals that hold the difference": f"{one['difference_covered']:.0%}",
        "half of the difference's interval, of the value, first and last": "{:.1%}, {:.1%}".format(*one["half_width"]),
        "test users with which 80 % of those better by 5 %, or by 2 %, would pass": _enough(one),
        "promoted of those better by 5 % or more": "{} of {}".format(*one["much_better"]),
        "promoted of those better by 2 to 5 %": "{} of {}".format(*one["better"]),
        "promoted of those better by less": "{} of {}".format(*one["alike"]),
        "promoted of those worse": "{} of {}".format(*one["worse"]),
        "exposures that the log could not have made": f"{one['impossible']:.0%}",
        "exposures left to forecasts": f"{one['forecast']:.0%}",
        "mean weight": f"{one['mean_weight']:.2f}",
        "entropy of the draw, first and last": f"{one['entropy'][0]:.2f}, {one['entropy'][-1]:.2f}",
        "of the budget spent": f"{one['spent_share']:.0%}",
    }
    intro = (
        f"{figures['nights']} nights a market, {figures['users']:,} newcomers a night. "
        "Worth is clicks per decision at equal money.\n\n"
    )
    return intro + table(["", "as shipped"], list(map(list, rows.items()))) + measured_on(figures, "generations.py")


if __name__ == "__main__":
    main()
