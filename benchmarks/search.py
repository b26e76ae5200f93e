"""What a search for hyper-parameters gains over the defaults: on the simulator, in the true value of the policy.

    python benchmarks/search.py                # four markets, twenty trials each; half an hour on two cores
    python benchmarks/search.py --quick        # two small markets, four trials

In each market, which has users and a log of its own, `mtorl search` chooses settings on validation users. Then whole
models are trained, two with the defaults, from different seeds, and two with what was chosen. All are paced to the same
budget and played against test users, whom neither search nor training has seen, as `benchmarks/regret.py` does.

The difference between two trainings of the same settings is noise; what a search gains has to be seen beside it.
Nothing here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment, finish

from benchmarks._markdown import measured_on, table

SEEDS = (1, 2, 3, 4)
BUDGET_SHARE = 0.6  # as in `make run`
ROUNDS, REPETITIONS = 5, 3
SIZES = {"users": 1200, "trials": 20, "epochs": 10}
QUICK = {"users": 300, "trials": 4, "epochs": 2}


def market(seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """A search in one market, and what the policies are worth."""
    from mtorl.fitting.search import SearchConfig, search
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.splits import split_of
    from mtorl.log.touchpoints import write_log
    from mtorl.runtime import progress
    from mtorl.simulator.simulator import Simulator, SimulatorConfig
    from pipelines.loop.simulated_lift import play

    simulator = Simulator(SimulatorConfig(users=sizes["users"], seed=seed))
    log = simulator.log()
    users = log["user_id"].drop_duplicates()
    held_out = sorted(users[split_of(users) == "test"])
    money, clicks = float(log["cost"].mean()), float(log["click"].mean())
    with tempfile.TemporaryDirectory() as root, progress.listen(lambda *_: None):
        folder = Path(root)
        write_log(log, folder / "log.parquet", DatasetSpec.load("simulator"))
        windows = str(_windows(folder))
        config = SearchConfig(trials=sizes["trials"], epochs=sizes["epochs"], seed=seed)
        report = search(windows, str(folder / "best"), config)
        values = {}
        for name, settings in (("default", {}), ("searched", report.best.settings)):
            for turn in (0, 1):
                policy = _trained(windows, folder / f"{name}-{turn}", settings, sizes["epochs"], seed + 1000 * turn)
                played = play(
                    simulator, policy, held_out, ROUNDS, seed, BUDGET_SHARE * money, clicks / money, REPETITIONS
                )
                values[f"{name}, seed {turn + 1}"] = played.value
    print(f"market {seed}: {values}, best settings {report.best.settings}", flush=True)
    return {
        "seed": seed,
        "test_users": len(held_out),
        "values": values,
        "default_loss": report.default_loss,
        "best_loss": report.best.loss,
        "best": report.best.settings,
        "ended_early": sum(tried.ended == "early" for tried in report.trials),
        "importance": report.importance,
    }


def _windows(folder: Path) -> Path:
    from features.data_folder import build
    from features.engine import open_engine
    from features.ingest.log_folder import RawLog

    with open_engine("duckdb") as engine:
        build(engine, RawLog(str(folder / "log.parquet"), "simulator"), folder / "data")
    return folder / "data" / "windows"


def _trained(windows: str, out: Path, settings: dict[str, Any], epochs: int, seed: int) -> Any:
    from mtorl.fitting.fit import fit_challenger
    from mtorl.network.training import TrainConfig
    from pipelines.loop.simulated_lift import policy_of

    config = TrainConfig(epochs=epochs, seed=seed, **settings)
    artifact = fit_challenger(windows, str(out), config, BUDGET_SHARE)
    return policy_of(artifact, None)


def over_markets(markets: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the markets, and their spread from market to market."""
    values = {name: np.array([one["values"][name] for one in markets]) for name in markets[0]["values"]}
    default = (values["default, seed 1"] + values["default, seed 2"]) / 2
    searched = (values["searched, seed 1"] + values["searched, seed 2"]) / 2
    loss = np.array([[one["default_loss"], one["best_loss"]] for one in markets])
    return {
        "default": _mean(default),
        "searched": _mean(searched),
        "gain": _mean(searched / default - 1),
        "same_settings_another_seed": float(np.abs(values["default, seed 2"] / values["default, seed 1"] - 1).mean()),
        "loss": {"default": float(loss[:, 0].mean()), "best": float(loss[:, 1].mean())},
    }


def _mean(value_M: np.ndarray) -> dict[str, float]:
    return {"mean": float(value_M.mean()), "se": float(value_M.std(ddof=1) / np.sqrt(len(value_M)))}


def search_table(figures: dict[str, Any]) -> str:
    """What a search gains, as Markdown."""
    rows = []
    for one in figures["markets"]:
        values = one["values"]
        pairs = [[values[f"{name}, seed {turn}"] for turn in (1, 2)] for name in ("default", "searched")]
        cells = [", ".join(f"{value:.4f}" for value in pair) for pair in pairs]
        gain = sum(pairs[1]) / sum(pairs[0]) - 1
        loss = f"{one['default_loss']:.4f} to {one['best_loss']:.4f}"
        rows.append([str(one["seed"]), loss, *cells, f"{gain:+.1%}"])
    heads = ["market", "validation loss", "default: clicks a decision, two seeds", "searched", "gain"]
    over, sizes = figures["over_markets"], figures["sizes"]
    gain = over["gain"]
    return (
        f"{sizes['users']:,} users a market, {sizes['trials']} trials, at most {sizes['epochs']} epochs; "
        "all policies paced alike.\n\n"
        + table(heads, rows)
        + f"\nMean gain {gain['mean']:+.1%}, standard error over markets {gain['se']:.1%}. The same default settings, "
        f"trained from another seed, differ by {over['same_settings_another_seed']:.1%} on average.\n"
        + measured_on(figures, "search.py")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two markets of 300 users, four trials")
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    sizes, seeds = (QUICK, SEEDS[:2]) if arguments.quick else (SIZES, SEEDS)
    with ProcessPoolExecutor(2) as processes:
        markets = list(processes.map(market, seeds, [sizes] * len(seeds)))
    figures = {
        "sizes": sizes,
        "markets": markets,
        "over_markets": over_markets(markets),
        "environment": environment("torch", "optuna"),
    }
    print(search_table(figures))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
