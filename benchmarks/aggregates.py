"""Do Feast's hourly aggregates help the model beside its own memory? MTORL and LightGBM with and without them, paired.

python benchmarks/aggregates.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
python benchmarks/aggregates.py --quick                            # simulated

The aggregates are those of the feature views `user_channel` (touchpoints and clicks of a user's last seven days by
channel) and `channel_stats` (touchpoints, rates and mean cost of a channel's last day), each as it stood before the
touchpoint. They become context columns of the log, so both methods read them like any other column.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from _environment import environment, finish

USERS = 6000  # simulated
FOLDS = (5, 6, 7)
METHODS = ("mtorl", "lightgbm")
METRICS = ("action_accuracy", "action_auc", "action_logloss", "reward_auc", "reward_logloss")


def with_aggregates(log: Path, out: Path) -> int:
    """Copy a log folder, with the aggregates as further context columns; how many there are."""
    import numpy as np
    import pandas as pd

    from features.engine import open_engine
    from features.feature_repo import names, sources
    from mtorl.log.dataset import Column, DatasetSpec

    spec = DatasetSpec.load(log / "dataset.yaml")
    with open_engine() as engine:
        sources.build_sources(engine, log / "touchpoints.parquet", spec, out / "sources")
    touchpoints = pd.read_parquet(log / "touchpoints.parquet")
    order = touchpoints["timestamp"].argsort(kind="stable")
    found: dict[str, Any] = {}

    def join(right: pd.DataFrame, by: str | None, prefix: str) -> None:
        left = touchpoints.iloc[order][["timestamp", *([by] if by else [])]]
        right = right.sort_values("timestamp", kind="stable")
        joined = pd.merge_asof(left, right, on="timestamp", by=by, allow_exact_matches=False)
        for name in right.columns.drop(["timestamp", *([by] if by else [])]):
            values = np.empty(len(touchpoints))
            values[order] = joined[name].to_numpy(float)
            found[f"{prefix}_{name}"] = values

    of_user = pd.read_parquet(out / "sources" / f"{names.USER_CHANNEL}.parquet")
    counts = {
        f"{kind}_{c}": np.log1p(np.stack(of_user[f"uc_{kind}"])[:, c])
        for kind in ("touchpoints", "clicks")
        for c in range(len(spec.channels))
    }
    join(of_user[["user_id", "timestamp"]].assign(**counts), "user_id", "user")
    by_channel = pd.read_parquet(out / "sources" / f"{names.CHANNEL_STATS}.parquet")
    for c, channel in enumerate(spec.channels):
        one = by_channel[by_channel["channel"] == channel].drop(columns=["channel", "created_timestamp"])
        one = one.assign(channel_touchpoints=np.log1p(one["channel_touchpoints"]))
        if len(one):
            join(one, None, f"c{c}")
    varied = {name: values for name, values in found.items() if len(np.unique(values[np.isfinite(values)])) > 1}
    richer = pd.concat([touchpoints, pd.DataFrame(varied, index=touchpoints.index)], axis=1)
    richer.to_parquet(out / "touchpoints.parquet")
    added = tuple(Column(name=name, kind="numeric", missing="unknown") for name in varied)
    spec.replace(context=(*spec.context, *added)).save(out / "dataset.yaml")
    shutil.copy(log / "ingest.json", out / "ingest.json")
    return len(added)


def answers(windows: Path, fold: int) -> tuple[dict[str, Any], Any]:
    """What each method says of the test rows of a fold, and the task."""
    from mtorl.comparison.methods import METHODS as ALL
    from mtorl.comparison.task import by_user
    from mtorl.window.table import WindowTable

    task = by_user(WindowTable.load(windows), fold)
    return {name: ALL[name](task, fold).heads[:2] for name in METHODS}, task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    parser.add_argument("--dataset", default="simulator", help="name of its description")
    parser.add_argument("--quick", action="store_true", help="600 users, one fold")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()

    import torch

    from features.sequences.builder import build_windows
    from mtorl.comparison.cells import combined
    from mtorl.evaluation.head_metrics import LoggedTargets, compare
    from mtorl.window.labels import labels
    from pipelines.paper import PaperConfig, prepare

    torch.set_num_threads(1)
    folds = FOLDS[:1] if arguments.quick else FOLDS
    with tempfile.TemporaryDirectory() as root:
        users = (600 if arguments.quick else USERS) if not arguments.data else 0
        prepare(arguments.dataset, arguments.data, PaperConfig({}, Path(root), users=users))
        plain, richer = Path(root) / "data" / arguments.dataset, Path(root) / "richer"
        richer.mkdir()
        added = with_aggregates(plain / "log", richer)
        build_windows(richer, richer / "windows")
        differences: dict[str, list[Any]] = {name: [] for name in METHODS}
        for fold in folds:
            without, task = answers(plain / "windows", fold)
            with_them, _ = answers(richer / "windows", fold)
            seen = labels(task.test.windows, task.encoder)
            rows = task.test.rows
            targets = LoggedTargets(
                seen.channel_B,
                seen.reward_B,
                rows["user_id"].to_numpy(),
                positive_B=rows[task.spec.reward.gain].to_numpy(float) > 0,
            )
            for name in METHODS:
                both = {"without": without[name], "with": with_them[name]}
                found = compare(both, "without", targets, fold)
                differences[name].append(found["differences"]["with"])
            print(f"fold {fold} done", flush=True)
    figures = {
        "dataset": arguments.dataset,
        "columns": added,
        "folds": list(folds),
        "differences": {
            name: {metric: combined(differences[name], metric, disjoint=True) for metric in METRICS} for name in METHODS
        },
        "environment": environment("torch", "lightgbm"),
    }
    print(f"{arguments.dataset}: {added} columns of aggregates; with them less without, {len(folds)} folds of users")
    for name, metrics in figures["differences"].items():
        for metric, value in metrics.items():
            text = "-" if value is None else f"{value[0]:+.4f} [{value[1]:+.4f}, {value[2]:+.4f}]"
            print(f"{name:<10} {metric:<16} {text}")
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
