"""Two artifacts to figures on users that neither has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp.dsl import Artifact

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
