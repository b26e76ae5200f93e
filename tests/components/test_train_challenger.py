"""Windows to the challenger's artifact, its metrics, and what a volume keeps of the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp.dsl import Artifact

from mtorl.artifact.artifact import load

pytestmark = pytest.mark.integration


def test_the_challenger_is_an_artifact_that_loads(challenger: Artifact) -> None:
    loaded = load(Path(challenger.path))
    assert loaded.model["name"] == "challenger" and loaded.model["kind"] == "mtorl"
    assert challenger.metadata["digest"] == loaded.digest


def test_its_metrics_are_on_the_page_and_in_the_file(challenger: Artifact) -> None:
    metrics = challenger.metadata["metrics"]
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
    assert metrics.metadata["best_val_loss"] == challenger.metadata["returned"]


def test_the_volume_keeps_its_curves_and_no_checkpoint(challenger: Artifact, volume: Path) -> None:
    assert list((volume / "tensorboard").rglob("events.out.tfevents.*"))
    assert not [file for file in volume.rglob("*.pt*") if file.is_file()]
