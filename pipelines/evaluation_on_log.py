"""Evaluates an artifact on a raw log: `mtorl evaluate`."""

import tempfile
from pathlib import Path
from typing import Any


def evaluate_on_log(artifact: Path, log: str, dataset: str, seed: int, only_new: bool, users: int) -> dict[str, Any]:
    """Ingest a log, or simulate one if `log` is empty, build its windows, and evaluate an artifact on them.

    `only_new` skips users of the training set. Otherwise, such users raise KnownUsersError. `users`: as in `RawLog`.
    """
    from features.ingest.log_folder import RawLog, ingest
    from features.sequences.builder import build_windows
    from mtorl.artifact.artifact import load
    from mtorl.baselines.lightgbm import stored_in
    from mtorl.evaluation.holdout import evaluate_artifact
    from mtorl.window.table import MOST_HELD_OUT, WindowTable

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = load(artifact)
        raw = RawLog(log, dataset, "quarantine", users, seed)
        report = ingest(raw, folder / "log", folder / "quarantine.csv")
        build_windows(folder / "log", folder / "windows")
        table = WindowTable.load(folder / "windows", most=MOST_HELD_OUT)
        figures = evaluate_artifact(loaded, table, stored_in(loaded), seed, only_new)
    figures["data"]["quarantined"] = report.quarantined
    return figures
