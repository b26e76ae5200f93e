"""The gate looks at the lower bound, and says one of two words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.gate.component import gate
from mtorl.log.trainings import newest
from tests.components.artifacts import Output


@pytest.mark.integration
def test_a_lift_that_no_challenger_has_is_refused(
    evaluation: Artifact, log: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.python_func(evaluation, log, 1e6, "") == "reject"
    assert "reject: challenger - incumbent is" in capsys.readouterr().out, "a person reads why in the step's log"


@pytest.mark.integration
@pytest.mark.parametrize(("least", "answer"), [(0.01, "promote"), (0.03, "reject")])
def test_the_lower_bound_decides(
    evaluation: Artifact, log: Artifact, least: float, answer: str, output: Output, tmp_path: Path
) -> None:
    figures = json.loads(Path(evaluation.path).read_text())
    figures["value"] |= {"difference": 0.05, "difference_ci": [0.02, 0.08]}
    changed = output(Artifact, "evaluation")
    Path(changed.path).write_text(json.dumps(figures))
    assert gate.python_func(changed, log, least, str(tmp_path)) == answer
    noted = newest(tmp_path)
    assert noted is not None and noted.decision == answer
    assert (noted.lift, noted.lift_ci) == (0.05, (0.02, 0.08))
    assert sum(noted.log.days.values()) == json.loads((Path(log.path) / "ingest.json").read_text())["rows"]
