"""Validated log to feature repository and windows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact

pytestmark = pytest.mark.integration


def test_every_touchpoint_has_a_window(log: Artifact, windows: Artifact, feature_repo: Path) -> None:
    rows = len(pd.read_parquet(Path(log.path) / "touchpoints.parquet"))
    manifest = json.loads((Path(windows.path) / "manifest.json").read_text())
    assert windows.metadata["returned"] == manifest["rows"] == rows
    assert (feature_repo / "registry.db").exists()
