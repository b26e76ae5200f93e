"""Two artifacts to figures on users that neither has seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset, Metrics

from components.evaluate.component import evaluate
from tests.components.artifacts import CODE, Output

pytestmark = pytest.mark.integration


def test_figures_of_both_policies(evaluation: Artifact) -> None:
    figures = json.loads(Path(evaluation.path).read_text())
    assert {"challenger", "incumbent", "value", "budget_curve"} <= set(figures)
    low, high = figures["value"]["difference_ci"]
    assert low <= figures["value"]["difference"] <= high


def test_the_challengers_figures_are_its_metrics(evaluation: Artifact) -> None:
    figures = json.loads(Path(evaluation.path).read_text())["challenger"]
    metrics = evaluation.metadata["metrics"]
    assert metrics.metadata == {name: value for name, value in figures.items() if isinstance(value, float)}
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata


def test_exposures_without_a_propensity_are_no_fault(
    windows: Artifact, challenger: Artifact, incumbent: Artifact, output: Output, tmp_path: Path
) -> None:
    """An arm that says no probabilities leaves some, and they are not what a policy is valued on."""
    folder = tmp_path / "windows"
    shutil.copytree(windows.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        steps = pd.read_parquet(folder / shard["file"])
        steps.loc[::2, "propensity"] = None
        steps.to_parquet(folder / shard["file"], index=False)
        shard["sha256"] = hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made = output(Artifact, "evaluation")
    source = Dataset(uri=str(folder))
    evaluate.python_func(source, challenger, incumbent, 0.6, 7, CODE, made, output(Metrics, "metrics"))
    figures = json.loads(Path(made.path).read_text())
    assert 0.4 * figures["test_rows"] < figures["value"]["rows"] < 0.6 * figures["test_rows"]
