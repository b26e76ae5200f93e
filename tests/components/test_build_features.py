"""Validated log to windows and the definitions of the features."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact

pytestmark = pytest.mark.integration


def test_every_touchpoint_has_a_window(log: Artifact, windows: Artifact) -> None:
    rows = len(pd.read_parquet(Path(log.path) / "touchpoints.parquet"))
    manifest = json.loads((Path(windows.path) / "manifest.json").read_text())
    assert windows.metadata["returned"] == manifest["rows"] == rows


def test_definitions_travel_without_the_sources(windows: Artifact, definitions: Artifact) -> None:
    names = {path.name for path in Path(definitions.path).iterdir()}
    assert {"registry.db", "feature_store.yaml", "online.db"} <= names
    assert not list(Path(definitions.path).rglob("*.parquet"))
