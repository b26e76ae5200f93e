"""The decision log of a period to the experiment's verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from kfp.dsl import Artifact

from components.verdict.component import verdict
from tests.components.artifacts import Output
from tests.components.decision_log_folder import write_decision_log
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import Log


def test_the_decisions_of_the_period_are_judged(output: Output, tmp_path: Path) -> None:
    decision_log = write_decision_log(tmp_path / "decision_log", [{}] * 1600)
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(CONTENT))
    since, until = "2025-03-01T00:00:00+00:00", "2025-03-01T20:00:00+00:00"
    result = output(Artifact, "result")
    word = verdict.python_func(str(decision_log), str(experiment), "click", "", 0.0, since, until, result)
    figures = json.loads(Path(result.path).read_text())
    assert word == figures["verdict"] == "ship"
    assert sum(arm["decisions"] for arm in figures["arms"].values()) == 20 * 60


def test_the_result_names_no_user(output: Output, tmp_path: Path) -> None:
    """A heavy user is named on a terminal; a file of a run is no place that `mtorl data forget` looks at."""
    log = Log()
    for number in range(300):
        log.decide("probe" if number % 3 else f"u{number}", "challenger" if number % 3 else "incumbent")
    for number in range(50):
        log.decide(f"v{number}", "challenger")
    log.write(tmp_path)
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(CONTENT))
    result = output(Artifact, "result")
    verdict.python_func(str(tmp_path), str(experiment), "click", "", 0.0, "", "", result)
    text = Path(result.path).read_text()
    assert json.loads(text)["heavy_users"] == [{"arm": "challenger", "share": 0.8}] and "probe" not in text


def test_all_experiments_of_a_folder_are_judged(output: Output, tmp_path: Path) -> None:
    decision_log = write_decision_log(tmp_path / "decision_log", [{}] * 1600)
    folder = tmp_path / "experiments"
    (folder / "..data").mkdir(parents=True)
    (folder / "one.yaml").write_text(yaml.safe_dump(CONTENT))
    (folder / "other.yaml").write_text(yaml.safe_dump({**CONTENT, "name": "other"}))
    result = output(Artifact, "result")
    word = verdict.python_func(str(decision_log), str(folder), "click", "", 0.0, "", "", result)
    figures = json.loads(Path(result.path).read_text())
    assert word == "one: ship, other: inconclusive"
    assert {name: found["verdict"] for name, found in figures.items()} == {"one": "ship", "other": "inconclusive"}


def test_what_cannot_be_judged_ends_in_a_line(output: Output, tmp_path: Path) -> None:
    decision_log = write_decision_log(tmp_path / "decision_log", [{}])
    missing = str(tmp_path / "none.yaml")
    with pytest.raises(SystemExit, match=r"mtorl: .*none\.yaml: cannot read the experiment file"):
        verdict.python_func(str(decision_log), missing, "click", "", 0.0, "", "", output(Artifact, "result"))
