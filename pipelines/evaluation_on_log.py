"""`mtorl evaluate`: a finished artifact on any log, from the raw file on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def evaluate_on_log(
    artifact: Path, log: str, dataset: str, seed: int, only_new: bool, users: int = 0
) -> dict[str, Any]:
    """Ingest a log, cut its windows, and judge an artifact on them.

    Args:
        log: Raw log; empty simulates.
        dataset: Built-in data set name, or the path of its YAML description.
        only_new: Leave out users of the training set; else they are an error.
        users: Users to simulate or keep; 0 for all.

    Raises:
        InputError: The artifact or the log can't be used.
        KnownUsersError: The log has users of the training set.
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
