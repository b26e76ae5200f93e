"""Measures how models change if each learns from the decisions of earlier ones, night after night, on the simulator.

    python benchmarks/generations.py --json FILE                 # ten markets, eight nights: some hours
    python benchmarks/generations.py --json FILE --markets 12    # two further markets
    python benchmarks/generations.py --quick                     # one small market, one night

Markets in FILE are not run again. Each night, the serving model decides for new users, the next model learns from all
decisions so far, and the gate decides whether this model serves from then on.

    worth        clicks per decision of the serving model with the same budget, on new users
    AUC          AUC of the newest model's reward predictions, on the first log
    estimate     estimated value of the newest model, relative to its true value
    covered      how often the 95 % interval of the estimate contains the true value
    gate         how many models the gate promoted, by their true gain over the serving model
    attack       the gate also judges a model from a faulty training
    experiment   a model that needs an experiment serves half of the next night's users
    drift        each night's model is worse by the same share (`generation_runs/drift.py`)
"""

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish, parser

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.generation_runs.drift import drift
from mtorl.evaluation.gate import MARGIN, MAX_IMPOSSIBLE
from mtorl.log.splits import SHARES

USERS, EPOCHS, NIGHTS = 2000, 6, 8
FALL = 0.02
"""Largest accepted decrease of a model's value below that of the best generation, as a fraction of the best value."""
DRIFT_NIGHTS = (8, 40)
GAINS = {
    "better by 5 % or more": (0.05, math.inf),
    "better by 2 to 5 %": (0.02, 0.05),
    "better by less than 2 %": (0.0, 0.02),
    "worse by less than 2 %": (-0.02, 0.0),
    "worse by 2 to 10 %": (-0.1, -0.02),
    "worse by 10 % or more": (-math.inf, -0.1),
}
"""Ranges for the value of a model compared with the serving model. The bounds are relative differences."""
# Figures of a night that `summary` averages.
AVERAGED = ("covered", "difference_covered", "mean_weight", "impossible", "forecast", "spent_share")
RULES = {"proof required": 0.0, f"margin {MARGIN:.0%}": MARGIN}


def one_market(seed: int, users: int, epochs: int, number: int) -> list[dict[str, Any]]:
    # This import needs torch, and --help should be fast.
    from benchmarks.generation_runs.market import Market, nights

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in nights(Market(seed, users, epochs, number), Path(folder)):
            found.append(row)
            figures = f"worth {row['worth']:.4f}, AUC {row['auc']:.3f}, {row.get('decision', 'first')}"
            if attack := row.get("attack"):
                figures += f"; {attack['kind']}, {_gain(attack):+.1%}: {attack['decision']}"
            print(f"seed {seed}, night {row['night']}: {figures}", flush=True)
    plain: list[dict[str, Any]] = json.loads(json.dumps(found, default=float))
    return plain


def summary(markets: list[list[dict[str, Any]]], users: int) -> dict[str, Any]:
    """Summarise the figures of all nights and markets. `users` is the number of new users in a night."""
    later = [row for market in markets for row in market[1:]]
    worth_MN = np.array([[row["worth"] for row in market] for market in markets])
    auc_MN = np.array([[row["auc"] for row in market] for market in markets])
    gains = [(row["promoted"], _gain(row)) for row in later]
    attacks = [(row["attack"]["promoted"], _gain(row["attack"])) for row in later]
    return {
        "worth": worth_MN.mean(axis=0).tolist(),
        "last_over_first": (worth_MN[:, -1] / worth_MN[:, 0] - 1).tolist(),
        "newest_over_first": [market[-1]["candidate_worth"] / market[0]["worth"] - 1 for market in markets],
        "largest_fall": min(_largest_fall(market) for market in markets),
        "auc": auc_MN.mean(axis=0).tolist(),
        "estimate_over_truth": float(np.mean([row["estimate"] / row["truth"] - 1 for row in later])),
        **{name: float(np.mean([row[name] for row in later])) for name in AVERAGED},
        "half_width": [float(np.mean([_half_width(market[night]) for market in markets])) for night in (1, -1)],
        "half_width_of_a_night": float(np.mean([_half_width(row) * row["night"] ** 0.5 for row in later])),
        "test_users_for": {f"{gain:.0%}": _test_users_for(gain, markets, users) for gain in (0.05, 0.02)},
        "second_looks": _promoted([row["second_look"]["promoted"] for row in later if row.get("second_look")]),
        "by_proof": _promoted([row["promoted"] and row["lower_bound"] > 0 for row in later]),
        "own": _by_gain(gains),
        "faulty": _by_gain(attacks),
        "entropy": np.mean([[row["entropy"] for row in market[1:]] for market in markets], axis=0).tolist(),
    }


def _gain(row: dict[str, Any]) -> float:
    """Return the true relative gain of a new model over the serving model; 0.1 means 10 %."""
    return float(row["true_difference"] / (row["truth"] - row["true_difference"]))


def _largest_fall(market: list[dict[str, Any]]) -> float:
    """Return the largest fall of the serving model's value below its earlier best. A fall by 10 % is -0.1."""
    best, fall = market[0]["worth"], 0.0
    for row in market[1:]:
        best = max(best, row["worth"], row["candidate_worth"] if row["promoted"] else 0.0)
        fall = min(fall, row["worth"] / best - 1)
    return float(fall)


def drifts(half_width: float) -> list[dict[str, Any]]:
    """Run `drift` for each rule of the gate, loss per night, and number of nights."""
    return [
        {"rule": name, "worse": worse, "nights": nights, **asdict(drift(margin, worse, half_width, nights))}
        for name, margin in RULES.items()
        for worse in (0.005, 0.01, 0.02, 0.05, 0.1)
        for nights in DRIFT_NIGHTS
    ]


def _half_width(row: dict[str, Any]) -> float:
    """Return half of a difference's confidence interval, as a share of the serving policy's value."""
    return float((row["difference"] - row["lower_bound"]) / (row["truth"] - row["true_difference"]))


def _test_users_for(gain: float, markets: list[list[dict[str, Any]]], users: int) -> float:
    """Return how many test users the gate needs to promote 80 % of the models that are better by the share `gain`."""
    share = dict(SHARES)["test"]
    of_one = np.mean([_half_width(row) * (share * users * row["night"]) ** 0.5 for of in markets for row in of[1:]])
    # A true gain of 1.96 + 0.84 standard errors is significant in 80 % of all cases.
    return float((of_one * (1 + 0.84 / 1.96) / gain) ** 2)


def _promoted(decisions: list[bool]) -> list[int]:
    return [sum(decisions), len(decisions)]


def _by_gain(found: list[tuple[bool, float]]) -> dict[str, list[int]]:
    return {name: _promoted([p for p, gain in found if low <= gain < high]) for name, (low, high) in GAINS.items()}


def main() -> None:
    options = parser(__doc__, "one small market, one night, one epoch")
    options.add_argument("--markets", type=int, default=10, help="number of markets; their seeds are 1, 2, ...")
    arguments = options.parse_args()
    users, epochs, number = (400, 1, 1) if arguments.quick else (USERS, EPOCHS, NIGHTS)
    figures: dict[str, Any] = {"users": users, "nights": number, "markets": {}}
    if arguments.json and Path(arguments.json).exists():
        before = json.loads(Path(arguments.json).read_text())
        figures = before if [before[name] for name in ("users", "nights")] == [users, number] else figures
    figures["environment"] = environment("torch", "numpy", "duckdb")
    markets = figures["markets"]
    for seed in range(1, 2 if arguments.quick else arguments.markets + 1):
        if str(seed) not in markets:
            markets[str(seed)] = one_market(seed, users, epochs, number)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    figures["summary"] = summary(list(markets.values()), users)
    half_width = figures["summary"]["half_width_of_a_night"]
    figures["drift"] = {"half_width": half_width, "rules": drifts(half_width)}
    print(generations_table(figures))
    finish(figures, arguments.json)


def _changes(each: list[float]) -> str:
    return ", ".join(f"{change:+.1%}" for change in each)


def _enough(one: Figures) -> str:
    if one["impossible"] > MAX_IMPOSSIBLE or one["difference_covered"] < 0.9:
        return "no number"
    return ", ".join(f"{float(format(one['test_users_for'][gain], '.2g')):,.0f}" for gain in ("5%", "2%"))


def generations_table(figures: Figures) -> str:
    intro = (
        f"{figures['nights']} nights a market, {figures['users']:,} newcomers a night. Worth is clicks per decision at "
        f"equal money. The gate's margin is {MARGIN:.0%}. After each night's own model, the gate judges a model of a "
        "faulty training. A model that needs an experiment serves half of the next night's users, and is judged again."
        "\n\n"
    )
    rows = [list(row) for row in _rows(figures).items()]
    tables = table(["", f"{len(figures['markets'])} markets"], rows) + _drift_tables(figures["drift"])
    return intro + tables + measured_on(figures, "generations.py")


def _rows(figures: Figures) -> dict[str, str]:
    one = figures["summary"]
    rows = {
        "worth, first and last": f"{one['worth'][0]:.4f}, {one['worth'][-1]:.4f}",
        "last over first, each market": _changes(one["last_over_first"]),
        "last over first, mean": f"{np.mean(one['last_over_first']):+.1%}",
        "newest model over first, served or not": _changes(one["newest_over_first"]),
        "largest fall below the best generation": f"{one['largest_fall']:+.1%}",
        "AUC, first and last": f"{one['auc'][0]:.3f}, {one['auc'][-1]:.3f}",
        "estimate over truth": f"{one['estimate_over_truth']:+.1%}",
        "intervals that hold the value": f"{one['covered']:.0%}",
        "intervals that hold the difference": f"{one['difference_covered']:.0%}",
        "half of the difference's interval, of the value, first and last": "{:.1%}, {:.1%}".format(*one["half_width"]),
        "test users with which 80 % of those better by 5 %, or by 2 %, would be proven": _enough(one),
        **_promoted_rows("own", one["own"]),
        "promoted after an experiment": "{} of {}".format(*one["second_looks"]),
        "proven better, of all": "{} of {}".format(*one["by_proof"]),
        "exposures that the log could not have made": f"{one['impossible']:.0%}",
        "exposures left to forecasts": f"{one['forecast']:.0%}",
        "mean weight": f"{one['mean_weight']:.2f}",
        "entropy of the draw, first and last": f"{one['entropy'][0]:.2f}, {one['entropy'][-1]:.2f}",
        "of the budget spent": f"{one['spent_share']:.0%}",
    }
    return rows | _promoted_rows("faulty", one["faulty"])


def _promoted_rows(kind: str, found: Figures) -> dict[str, str]:
    return {f"promoted of {kind} models {gain}": "{} of {}".format(*found[gain]) for gain in GAINS if found[gain][1]}


def _drift_tables(found: Figures) -> str:
    text = (
        "\n**Many small losses.** Each night's model is worse than the one that serves, by the same share. A cell has "
        "the share of them that is promoted, the change of the value until the last night, and the share of markets "
        f"that ever fall more than {FALL:.0%} below their best generation. Estimates are drawn, with intervals of "
        f"+-{found['half_width']:.1%} after a night.\n"
    )
    for nights in DRIFT_NIGHTS:
        cells: dict[str, dict[float, str]] = {rule: {} for rule in RULES}
        for one in found["rules"]:
            if one["nights"] == nights:
                shown = f"{one['passed']:.1%}; {one['end'] - 1:+.2%}; {one['fell']:.1%}"
                cells[one["rule"]][one["worse"]] = shown
        heads = [f"{nights} nights", *(f"{worse:.1%}" for worse in next(iter(cells.values())))]
        text += "\n" + table(heads, [[rule, *row.values()] for rule, row in cells.items()])
    return text


if __name__ == "__main__":
    main()
