from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

from components.monitor.component import monitor
from monitoring.watch import check
from monitoring.watch.state import STATE_FILE, Alarm, State, Stream, alone
from mtorl.artifact.artifact import load
from tests.monitoring.written_log import write_decision_log

pytestmark = pytest.mark.integration
MIDNIGHT = datetime(2025, 3, 2, tzinfo=UTC)
"""Midnight after the day of the decision log."""


class Night(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Night:
        return cls(2025, 3, 2, 2, tzinfo=tz)


@pytest.fixture
def registry(challenger: Artifact, tmp_path: Path) -> Path:
    shutil.copytree(challenger.path, tmp_path / "registry" / "challenger" / "v1" / "artifact")
    return tmp_path / "registry"


@pytest.fixture
def lake(challenger: Artifact, tmp_path: Path) -> Path:
    model = load(Path(challenger.path))
    names = [column.name for column in model.spec.context]
    contexts = model.reference()[names].head(1_000).to_dict("records")
    return write_decision_log(tmp_path / "lake", contexts, model_digest=model.digest)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "datetime", Night)


def judge(lake: Path, registry: Path, state: Path, dataset: str = "") -> str:
    return str(monitor.python_func(str(lake), str(registry), dataset, str(state)))


def known(state: Path, kind: str) -> None:
    """Write a monitor state with one active alarm, in which every day is already judged."""
    alarm = Alarm(kind=kind, since=MIDNIGHT, text=f"a sentence about {kind}")  # type: ignore[arg-type]
    found = State(checked=MIDNIGHT, judged_until=MIDNIGHT, streams={"outcomes/gain_per_cost": Stream(alarm=alarm)})
    found.write(state / STATE_FILE)


def test_the_newest_model_describes_the_data(lake: Path, registry: Path, tmp_path: Path) -> None:
    older = shutil.copytree(registry / "challenger" / "v1", registry / "challenger" / "v0") / "artifact"
    model = json.loads((older / "model.json").read_text())
    (older / "model.json").write_text(json.dumps(model | {"created": "2020-01-01T00:00:00+00:00", "digest": "0"}))
    (older / "dataset.yaml").write_text("of another data set")
    state = tmp_path / "monitor"
    assert judge(lake, registry, state) == "fine"
    found = State.read(state / STATE_FILE)
    assert found.judged_until == MIDNIGHT and found.groups["context"].not_judged is None
    assert found.newest_model is not None and found.newest_model.year > 2020
    assert judge(lake, registry, state, dataset="simulator") == "fine", "no new day to judge"
    assert State.read(state / STATE_FILE).streams == found.streams


def test_a_finding_is_a_result_not_a_failure_even_of_an_earlier_check(registry: Path, tmp_path: Path) -> None:
    state, none = tmp_path / "monitor", tmp_path / "none"
    assert judge(none, registry, state) == "not judged"
    known(state, "harm")
    assert judge(none, registry, state) == "harm"
    known(state, "drift")
    before = (state / STATE_FILE).read_bytes()
    with alone(state):
        assert judge(none, registry, state) == "moved"
    assert (state / STATE_FILE).read_bytes() == before
