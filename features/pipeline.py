"""The feature step of the training pipeline: log folder in, Feast repository and windows folder out."""

from __future__ import annotations

import json
from pathlib import Path

from features.engine import open_engine
from features.offline import store
from features.sequences import builder as sequences
from mtorl.log.dataset import DatasetSpec


def build(log: str, feature_repo: str, windows: str) -> int:
    """Create the feature repository of a log, and the window store of its touchpoints with what Feast adds to them.

    Args:
        log: Folder with touchpoints.parquet, dataset.yaml and ingest.json.
        feature_repo: Folder of the Feast repository.
        windows: Folder to write: manifest.json, steps/part-00000.parquet ..., dataset.yaml.

    Returns:
        Number of touchpoints, each of which has a window.
    """
    source, out = Path(log), Path(windows)
    spec = DatasetSpec.load(source / "dataset.yaml")
    store.create(Path(feature_repo), spec, source / "touchpoints.parquet")
    build_windows(source, out)
    return store.training_windows(Path(feature_repo), out, spec)


def build_windows(log: Path, windows: Path) -> None:
    """Only the windows of a log, without a feature repository: all that comparing models takes.

    Args:
        log: As for `build`.
        windows: As there.
    """
    spec = DatasetSpec.load(log / "dataset.yaml")
    fingerprint = json.loads((log / "ingest.json").read_text())["fingerprint"]
    with open_engine() as engine:
        sequences.build(engine, log / "touchpoints.parquet", spec, windows, log_fingerprint=fingerprint)
