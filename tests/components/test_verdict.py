import json
from pathlib import Path

import pytest
import yaml
from kfp.dsl import Artifact

from components.verdict.component import verdict
from tests.components.artifacts import Output
from tests.monitoring.judged_experiment import CONTENT
from tests.monitoring.written_log import write_decision_log


def judge(log: Path, experiment: Path, output: Output, since: str = "", until: str = "") -> tuple[str, str]:
    result = output(Artifact, "result")
    word = verdict.python_func(str(log), str(experiment), "click", "", 0.0, since, until, result)
    return word, Path(result.path).read_text()


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """Return a folder with two experiment files, in the layout of a mounted ConfigMap."""
    folder = tmp_path / "experiments"
    (folder / "..data").mkdir(parents=True)
    (folder / "one.yaml").write_text(yaml.safe_dump(CONTENT))
    (folder / "other.yaml").write_text(yaml.safe_dump({**CONTENT, "name": "other"}))
    return folder


def test_the_decisions_of_the_period_are_judged(output: Output, experiments: Path, tmp_path: Path) -> None:
    log = write_decision_log(tmp_path / "lake", [{}] * 1600)
    word, result = judge(log, experiments / "one.yaml", output, "2025-03-01T00:00+00:00", "2025-03-01T20:00+00:00")
    figures = json.loads(result)
    assert word == figures["verdict"] == "ship"
    assert sum(arm["decisions"] for arm in figures["arms"].values()) == 20 * 60
    word, result = judge(log, experiments, output)
    assert word.split(", ") == ["one: ship", "other: inconclusive"]
    assert {name: found["verdict"] for name, found in json.loads(result).items()} == {
        "one": "ship", "other": "inconclusive",
    }  # fmt: skip
    with pytest.raises(SystemExit, match=r"mtorl: .*none\.yaml"):
        judge(log, tmp_path / "none.yaml", output)
