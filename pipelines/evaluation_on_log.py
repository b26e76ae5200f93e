"""Evaluates a trained model on a raw log, for the command `mtorl evaluate`."""

import tempfile
from pathlib import Path
from typing import Any


def evaluate_on_log(artifact: Path, log: str, dataset: str, seed: int, only_new: bool, users: int) -> dict[str, Any]:
    """Evaluate a model's artifact on the touchpoints of a log.

    Args:
        log: Path of the raw log. If empty, a log is simulated.
        only_new: Skip users of the model's training set. Otherwise such users raise KnownUsersError.
        users: Number of users to simulate, or to keep from the log.
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
