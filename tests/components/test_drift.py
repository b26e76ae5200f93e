"""The served context of a period against the training reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.drift import drift
from mtorl.artifact.artifact import load
from tests.components.artifacts import Output
from tests.components.decision_log_folder import write_decision_log

pytestmark = pytest.mark.integration


@pytest.mark.long
@pytest.mark.parametrize("shift", [0.0, 12.0], ids=["as-in-training", "hours-moved"])
def test_a_shifted_column_is_found(
    shift: float, challenger: Artifact, output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("monitoring.drift.calibrate")  # training has left the thresholds
    artifact = load(Path(challenger.path))
    names = [column.name for column in artifact.spec.context]
    contexts: list[dict[str, Any]] = artifact.reference()[names].to_dict("records")
    moved = [context | {"hour": context["hour"] + shift} for context in contexts]
    decision_log, out, result = (
        write_decision_log(tmp_path / "log", moved),
        tmp_path / "out",
        output(Artifact, "result"),
    )
    assert drift.python_func(str(decision_log), challenger.path, "", "", "", 0, str(out), 7, result) == bool(shift)
    figures = json.loads(Path(result.path).read_text())
    assert figures["detected_columns"] == (["hour"] if shift else [])
    assert figures["rows"] == len(contexts)


def test_a_period_without_decisions_fails(challenger: Artifact, output: Output, tmp_path: Path) -> None:
    decision_log = write_decision_log(tmp_path / "log", [{"hour": 3.0, "device": "tv", "placement": "feed"}])
    place, result = str(tmp_path / "out"), output(Artifact, "result")
    with pytest.raises(SystemExit, match=r"no decision from .* does the router get requests"):
        drift.python_func(str(decision_log), challenger.path, "", "", "", 24, place, 7, result)
