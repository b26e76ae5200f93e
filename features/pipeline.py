"""The feature step of the training pipeline: log folder in, Feast repository and windows folder out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from features import store
from mtorl.dataset import DatasetSpec


def build(log: str, feature_repo: str, windows: str) -> int:
    """Create the feature repository of a log and join the windows of every touchpoint.

    Args:
        log: Folder with touchpoints.parquet, dataset.yaml and ingest.json.
        feature_repo: Folder of the Feast repository.
        windows: Folder to write: windows.parquet, dataset.yaml, fingerprint.

    Returns:
        Number of windows.
    """
    source, out = Path(log), Path(windows)
    spec = DatasetSpec.load(str(source / "dataset.yaml"))
    store.create(Path(feature_repo), spec, source / "touchpoints.parquet")
    out.mkdir(parents=True, exist_ok=True)
    rows = store.training_windows(Path(feature_repo), source / "touchpoints.parquet", spec, out / "windows.parquet")
    shutil.copy2(source / "dataset.yaml", out)
    (out / "fingerprint").write_text(json.loads((source / "ingest.json").read_text())["fingerprint"])
    return rows
