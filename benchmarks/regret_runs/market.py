"""Simulates one market: trains a model on some users, and measures the gain of each policy on the other users."""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.generation_runs.market import BUDGET_SHARE, write_log_folder
from benchmarks.regret_runs.informed_ahead import InformedAhead
from benchmarks.regret_runs.policies import GREEDY, mixed, of_informed, of_predictor, one_channel, one_step
from features.sequences.builder import build_windows
from mtorl.artifact.artifact import Artifact
from mtorl.baselines.lightgbm import stored_in
from mtorl.fitting.fit import fit_challenger, fit_incumbent
from mtorl.log.splits import split_of
from mtorl.network.training import TrainConfig
from mtorl.simulator.informed import Informed
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines.loop.simulated_lift import Policy, play, policy_of

# Largest number of decisions per policy. With more rounds per user, fewer users are simulated.
DECISIONS = 12_000
# Numbers of opportunities that informed policies look ahead.
DEPTHS = (1, 2, 3)


def market(
    seed: int, users: int, epochs: int, rounds: tuple[int, ...], played: Collection[str] | None = None
) -> dict[str, Any]:
    """Simulate one market, and return each policy's clicks per decision and spent share of the budget.

    `rounds` are numbers of opportunities per user. `played` selects policies; None measures all.
    """
    simulator = Simulator(SimulatorConfig(users=users, seed=seed))
    log = simulator.log()
    ids = log["user_id"].drop_duplicates()
    held_out = sorted(ids[split_of(ids) == "test"])
    budget, price = BUDGET_SHARE * float(log["cost"].mean()), float(log["click"].mean() / log["cost"].mean())
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_log_folder(log, simulator.spec, root / "log")
        build_windows(root / "log", root / "windows")
        trained = fit_challenger(
            str(root / "windows"), str(root / "model"), TrainConfig(epochs=epochs, seed=seed), BUDGET_SHARE
        )
        assert trained is not None
        incumbent = fit_incumbent(str(root / "windows"), str(root / "incumbent"))
        each = {"incumbent": policy_of(incumbent, None), **policies(simulator, trained, seed)}
        each = {name: policy for name, policy in each.items() if played is None or name in played}
        for number in rounds:
            found[str(number)], served = {}, held_out[: DECISIONS // number]
            for name, policy in each.items():
                gained = play(simulator, policy, served, number, seed, budget, price)
                found[str(number)][name] = {"value": gained.value, "spent_share": gained.spent_share}
            values = "  ".join(f"{name} {one['value']:.4f}" for name, one in found[str(number)].items())
            print(f"seed {seed}, {number:2} rounds, {len(served)} users: {values}", flush=True)
    return found


def policies(simulator: Simulator, trained: Artifact, seed: int) -> dict[str, Policy]:
    served, trees, informed = policy_of(trained, None), stored_in(trained), Informed(simulator)
    assert trees is not None
    learned, known = one_step(served.forecasts), of_informed(informed)
    return {
        "served": served,
        "greedy": Policy(learned, GREEDY),
        "future": Policy(served.forecasts, GREEDY),
        "lightgbm": Policy(of_predictor(trees, trained), GREEDY),
        **{f"only_{name}": one_channel(learned, c) for c, name in enumerate(CHANNELS)},
        "channel_informed": mixed(choosing=known, exposing=learned),
        "when_informed": mixed(choosing=learned, exposing=known),
        "informed": Policy(known, GREEDY),
        **{f"informed_{depth}": Policy(known, GREEDY, InformedAhead(informed, depth, seed)) for depth in DEPTHS},
    }
