"""Do features from the store help the model beside its own memory? MTORL and LightGBM with and without them, paired.

    python benchmarks/aggregates.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
    python benchmarks/aggregates.py --data my-log.csv --dataset my-log.yaml
    python benchmarks/aggregates.py --quick                            # simulated

The features are those that the data set description names (docs/stored-features.md); if it names none, the touchpoints
and clicks of a user's last seven days by channel and the campaign's last day. Both models are trained on the same users
and windows, once with these inputs and once without.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _environment import environment, finish

if TYPE_CHECKING:
    from features.ingest.log_folder import RawLog
    from mtorl.window.table import WindowTable

USERS = 6000  # simulated
FOLDS = (5, 6, 7)
METHODS = ("mtorl", "lightgbm")
BUILT_IN = [
    {
        "view": "user_channel",
        "fields": [{"name": f"uc_{what}", "kind": "numeric", "by_channel": True} for what in ("touchpoints", "clicks")],
    },
    {
        "view": "campaign_stats",
        "fields": [
            {"name": f"campaign_{what}", "kind": "numeric"}
            for what in ("touchpoints", "click_rate", "conversion_rate", "cost")
        ],
    },
]
METRICS = ("action_accuracy", "action_auc", "action_logloss", "reward_auc", "reward_logloss")


def prepared(log: RawLog, root: Path) -> WindowTable:
    """The windows of a log, with the features that its description names, or all built-in ones."""
    from features.ingest.log_folder import ingest
    from features.offline.store import build_training_data
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.touchpoints import DATASET_FILE
    from mtorl.window.table import WindowTable

    ingest(log, root / "log", root / "quarantine.csv")
    spec = DatasetSpec.load(root / "log" / DATASET_FILE)
    if not spec.features:
        spec.replace(features=BUILT_IN).save(root / "log" / DATASET_FILE)
    build_training_data(root / "log", root / "features", root / "windows")
    return WindowTable.load(root / "windows")


def answers(table: WindowTable, fold: int) -> tuple[dict[str, Any], Any]:
    """What each method says of the test rows of a fold, and the task."""
    from mtorl.comparison.methods import METHODS as ALL
    from mtorl.comparison.task import by_user

    task = by_user(table, fold)
    return {name: ALL[name](task, fold).heads[:2] for name in METHODS}, task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    parser.add_argument("--dataset", default="simulator", help="name of its description")
    parser.add_argument(
        "--users", type=int, default=0, help="to simulate, or the most to keep of a log; 0: 6000, or all"
    )
    parser.add_argument("--folds", type=int, default=len(FOLDS), help="splits of the users, 1 to 3")
    parser.add_argument("--quick", action="store_true", help="600 users, one fold")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()

    import torch

    from features.ingest.log_folder import RawLog
    from mtorl.comparison.cells import combined
    from mtorl.evaluation.head_metrics import LoggedTargets, compare
    from mtorl.window.labels import labels

    torch.set_num_threads(1)
    folds = FOLDS[: 1 if arguments.quick else arguments.folds]
    with tempfile.TemporaryDirectory() as root:
        users = 600 if arguments.quick else arguments.users or (0 if arguments.data else USERS)
        table = prepared(RawLog(arguments.data, arguments.dataset, "quarantine", users), Path(root))
        plain = replace(table, spec=table.spec.replace(features=()))
        differences: dict[str, list[Any]] = {name: [] for name in METHODS}
        for fold in folds:
            without, _ = answers(plain, fold)
            with_them, task = answers(table, fold)
            seen = labels(task.test.windows, task.encoder)
            rows = task.test.rows
            targets = LoggedTargets(
                seen.channel_B,
                seen.reward_B,
                rows["user_id"].to_numpy(),
                positive_B=task.spec.reward.gain.of(rows) > 0,
            )
            for name in METHODS:
                both = {"without": without[name], "with": with_them[name]}
                measured = compare(both, "without", targets, fold)
                differences[name].append(measured["differences"]["with"])
            print(f"fold {fold} done", flush=True)
    figures = {
        "dataset": table.spec.name,
        "columns": len(table.spec.feature_columns),
        "folds": list(folds),
        "differences": {
            name: {metric: combined(differences[name], metric, disjoint=True) for metric in METRICS} for name in METHODS
        },
        "environment": environment("torch", "lightgbm"),
    }
    print(f"{table.spec.name}: {figures['columns']} inputs; with them less without, {len(folds)} folds of users")
    for name, metrics in figures["differences"].items():
        for metric, value in metrics.items():
            text = "-" if value is None else f"{value[0]:+.4f} [{value[1]:+.4f}, {value[2]:+.4f}]"
            print(f"{name:<10} {metric:<16} {text}")
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
