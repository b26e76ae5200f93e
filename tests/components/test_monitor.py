"""One check of the monitor as a step: what it returns, and that finding something is no failure."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kfp.dsl import Artifact

from components.monitor.component import monitor
from monitoring.watch import check
from monitoring.watch.state import STATE_FILE, Alarm, State, Stream, alone
from mtorl.artifact.artifact import load
from tests.components.decision_log_folder import write_decision_log

pytestmark = pytest.mark.integration
MIDNIGHT = datetime(2025, 3, 2, tzinfo=UTC)
"""After the day of the decision log."""


class Night(datetime):
    """The clock, two hours later."""

    @classmethod
    def now(cls, tz: Any = None) -> Night:
        return cls(2025, 3, 2, 2, tzinfo=tz)


@pytest.fixture
def registry(challenger: Artifact, tmp_path: Path) -> Path:
    shutil.copytree(challenger.path, tmp_path / "registry" / "challenger" / "v1" / "artifact")
    return tmp_path / "registry"


@pytest.fixture
def decision_log(challenger: Artifact, tmp_path: Path) -> Path:
    """The day, as in training."""
    model = load(Path(challenger.path))
    names = [column.name for column in model.spec.context]
    folder = write_decision_log(tmp_path / "log", model.reference()[names].head(1_000).to_dict("records"))
    decisions = pd.read_parquet(folder / "decisions.parquet")
    decisions.assign(model_digest=model.digest).to_parquet(folder / "decisions.parquet")
    return folder


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "datetime", Night)


def judge(decision_log: Path, registry: Path, state: Path, dataset: str = "") -> str:
    return str(monitor.python_func(str(decision_log), str(registry), dataset, str(state)))


def known(state: Path, kind: str) -> None:
    """A state in which an alarm stands, and of which every day is judged."""
    alarm = Alarm(kind=kind, since=MIDNIGHT, text=f"a sentence about {kind}")  # type: ignore[arg-type]
    found = State(checked=MIDNIGHT, judged_until=MIDNIGHT, streams={"outcomes/gain_per_cost": Stream(alarm=alarm)})
    found.write(state / STATE_FILE)


def test_the_newest_model_says_what_the_data_are(decision_log: Path, registry: Path, tmp_path: Path) -> None:
    older = shutil.copytree(registry / "challenger" / "v1", registry / "challenger" / "v0") / "artifact"
    model = json.loads((older / "model.json").read_text())
    (older / "model.json").write_text(json.dumps(model | {"created": "2020-01-01T00:00:00+00:00", "digest": "0"}))
    (older / "dataset.yaml").write_text("of another data set")
    state = tmp_path / "monitor"
    assert judge(decision_log, registry, state) == "fine"
    found = State.read(state / STATE_FILE)
    assert found.judged_until == MIDNIGHT and found.groups["context"].not_judged is None
    assert found.newest_model is not None and found.newest_model.year > 2020
    assert judge(decision_log, registry, state, dataset="simulator") == "fine", "again: nothing more to judge"
    assert State.read(state / STATE_FILE).streams == found.streams


def test_what_was_found_is_a_word_and_no_failure(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(tmp_path / "none", registry, tmp_path / "monitor") == "not judged"
    assert "outcomes could not be judged, no_decisions: " in capsys.readouterr().out
    known(tmp_path / "monitor", "harm")
    assert judge(tmp_path / "none", registry, tmp_path / "monitor") == "harm"
    assert "harm: outcomes/gain_per_cost: a sentence about harm" in capsys.readouterr().out


def test_beside_another_check_it_says_what_that_one_knew(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "monitor"
    with alone(state):
        assert judge(tmp_path / "none", registry, state) == "not judged"
        known(state, "drift")
        before = (state / STATE_FILE).read_bytes()
        assert judge(tmp_path / "none", registry, state) == "moved"
    assert "another check is at work" in capsys.readouterr().out
    assert (state / STATE_FILE).read_bytes() == before


def test_what_it_needs_is_said(registry: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((tmp_path / "log", tmp_path / "empty", tmp_path / "monitor"), "empty: no model is published"),
        ((tmp_path / "log", registry, tmp_path / "monitor", "nope"), "nope"),
    ):
        with pytest.raises(SystemExit, match=words):
            judge(*arguments)
    (tmp_path / "monitor").mkdir()
    (tmp_path / "monitor" / STATE_FILE).write_text("{")
    with pytest.raises(SystemExit, match="not a monitor's state"):
        judge(tmp_path / "log", registry, tmp_path / "monitor")
