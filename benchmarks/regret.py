"""Measures what a policy earns with a budget, and the most that could be, on the simulator, whose truth is known.

    python benchmarks/regret.py             # ten markets, each with a training of its own
    python benchmarks/regret.py --quick     # two small ones

Each market has users of its own; the pipeline trains on some, and held-out ones are served, everybody with the same
money for each opportunity. All policies are paced alike (`mtorl/policy/pacing.py`) but for one:

    incumbent    the frequencies of the log, as the pipeline fits them
    cheapest     always the cheapest channel, when it is cheap
    unpaced      MTORL at the price that training has found, whatever is spent
    mtorl        MTORL at a price that follows its spend
    informed     knows how the market works and what became of every ad, and takes the channel that is worth most now:
                 the most that any model could learn, without planning ahead (`mtorl/simulator/informed.py`)
    oracle       sees each user's hidden interests as well, which nobody can

Nothing here depends on the machine's speed.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish, parser

from benchmarks._markdown import Figures, Show, measured_on, table_of
from mtorl.artifact.artifact import load as load_artifact
from mtorl.log.dataset import SIMULATOR
from mtorl.log.splits import split_of
from mtorl.policy.decision import Forecast, PolicyParams
from mtorl.simulator.informed import Informed
from mtorl.simulator.simulator import Online, Simulator, SimulatorConfig
from pipelines import local, training
from pipelines.loop.simulated_lift import Forecasts, Policy, play, policy_of

ROUNDS = (5, 15)
SEEDS = tuple(range(1, 11))
BUDGET_SHARE = 0.6  # as in `make run`
GREEDY = PolicyParams(advantage_weight=1e6, exploration=0.0)  # the channel of the greatest utility


def expecting(gain: Forecasts | Any) -> Policy:
    """A policy that takes the channel of the greatest utility by a gain that it expects, and knows the mean costs."""

    def forecasts(online: Online, round_index: int) -> Forecast:
        gain_UC = gain(online, round_index)
        return Forecast(np.zeros_like(gain_UC), gain_UC, online.expected_cost(round_index))

    return Policy(forecasts, GREEDY)


def trained(seed: int, root: Path, settings: Mapping[str, Any]) -> dict[str, Policy]:
    """Both arms of a market, as the training pipeline makes them."""
    from mtorl.window.window import AD_DECISION
    from serving.router.flow.features import FeastSource

    arguments = {
        "source": SIMULATOR,
        "dataset": SIMULATOR,
        "feature_repo": str(root / "features"),
        "own_decisions": "",
        "registry": str(root / "registry"),
        "seed": seed,
        "budget_share": BUDGET_SHARE,
        **settings,
    }
    with contextlib.chdir(root):
        steps = local.run(training.build(), arguments, root / "pipeline", lambda *_: None)
    store = FeastSource(root / "features", AD_DECISION)
    made = {"incumbent": steps["fit-incumbent"], "challenger": steps["train-challenger"]}
    return {name: policy_of(load_artifact(step.paths["model"]), store) for name, step in made.items()}


def market(seed: int, settings: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """What each policy earns in one market, by number of rounds."""
    simulator = Simulator(SimulatorConfig(users=settings["users"], seed=seed))
    log = simulator.log()
    users = log["user_id"].drop_duplicates()
    held_out = sorted(users[split_of(users) == "test"])
    budget, clicks = BUDGET_SHARE * float(log["cost"].mean()), float(log["click"].mean())
    price, informed = clicks / float(log["cost"].mean()), Informed(simulator)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        arms = trained(seed, Path(root), settings)
        policies = {
            "incumbent": (arms["incumbent"], price),
            "cheapest": (expecting(lambda online, turn: np.full_like(online.expected_cost(turn), clicks)), price),
            "unpaced": (arms["challenger"], None),
            "mtorl": (arms["challenger"], price),
            "informed": (expecting(informed.click_probability), price),
            "oracle": (expecting(lambda online, turn: online.click_probability(turn)), price),
        }
        for rounds in ROUNDS:
            found[str(rounds)] = {}
            for name, (policy, first) in policies.items():
                played = play(simulator, policy, held_out, rounds, seed, budget, first)
                found[str(rounds)][name] = {
                    "value": played.value,
                    "spent_share": played.spent_share,
                    "gain_per_cost": played.gain_per_cost,
                }
            values = "  ".join(f"{name} {one['value']:.4f}" for name, one in found[str(rounds)].items())
            print(f"seed {seed}, {rounds:2} rounds, {len(held_out)} users: {values}", flush=True)
    return found


def over_markets(markets: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over the markets, with their standard errors, and the worst of what has a bound."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for rounds in map(str, ROUNDS):
        figures[rounds] = {}
        for name in markets[0][rounds]:
            one = {key: np.array([found[rounds][name][key] for found in markets]) for key in markets[0][rounds][name]}
            ratio = one["value"] / np.array([found[rounds]["informed"]["value"] for found in markets])
            figures[rounds][name] = {
                "value": float(one["value"].mean()),
                "value_se": float(one["value"].std(ddof=1) / np.sqrt(len(markets))),
                "of_informed": float(ratio.mean()),
                "of_informed_least": float(ratio.min()),
                "spent_share": float(one["spent_share"].mean()),
                "spent_share_least": float(one["spent_share"].min()),
                "spent_share_most": float(one["spent_share"].max()),
                "gain_per_cost": float(one["gain_per_cost"].mean()),
            }
    return figures


def main() -> None:
    options = parser(__doc__, "two markets of 1,000 users, two epochs")
    arguments = options.parse_args()
    settings = {"users": 1000, "epochs": 2} if arguments.quick else {"users": SimulatorConfig.users}
    seeds = SEEDS[:2] if arguments.quick else SEEDS
    figures = {
        "seeds": len(seeds),
        "rounds": over_markets([market(seed, settings) for seed in seeds]),
        "environment": environment("torch", "numpy"),
    }
    print(regret_tables(figures))
    finish(figures, arguments.json)


def regret_tables(figures: Figures) -> str:
    """What policies earn with a budget, a table for each number of rounds."""
    words = {
        "incumbent": "incumbent: frequencies of the log",
        "cheapest": "the cheapest channel",
        "unpaced": "MTORL at the price of training",
        "mtorl": "**MTORL, paced as when served**",
        "informed": "informed: all that can be known, one step ahead",
        "oracle": "oracle: sees what nobody can see",
    }
    columns: dict[str, Show] = {
        "": lambda one: words[one["name"]],
        "clicks a decision": lambda one: f"{one['value']:.4f} +- {1.96 * one['value_se']:.4f}",
        "of the informed (least)": lambda one: f"{one['of_informed']:.3f} ({one['of_informed_least']:.3f})",
        "of the budget spent (least)": lambda one: f"{one['spent_share']:.1%} ({one['spent_share_least']:.1%})",
        "clicks per EUR": lambda one: f"{one['gain_per_cost']:.3f}",
    }
    text = f"Means over {figures['seeds']} markets, each with a training of its own; all but one policy paced alike.\n"
    for rounds, policies in figures["rounds"].items():
        rows = [{"name": name, **one} for name, one in policies.items()]
        text += f"\n**{rounds} opportunities a user**\n\n{table_of(columns, rows)}"
    return text + measured_on(figures, "regret.py")


if __name__ == "__main__":
    main()
