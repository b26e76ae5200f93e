"""Tests that `mtorl experiment run` applies edits while it reads a log, and survives unreadable files."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import Hold
from mtorl.runtime.clock_jumps import ClockJumps
from mtorl.runtime.message import Message
from pipelines.experiments import runner as module
from pipelines.experiments.controller import act, state
from pipelines.experiments.folder import ExperimentFolder
from pipelines.experiments.runner import Runner
from tests.features.collect.decision_logs import SPEC
from tests.mtorl.experiment.experiments import FILE
from tests.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    stages = [{"stage": "50%", "hours": 0, "users": 10}]
    metrics = {"primary": "gain_per_decision", "outcome_hours": None}
    file = tmp_path / "first-day.yaml"
    file.write_text(yaml.safe_dump({**FILE, "metrics": metrics, "ramp": {"stages": stages}}))
    made = ExperimentFolder.of(file)
    act(made, "move", by="person", reason="agreed", at=time.time(), to="50%")
    SPEC.save(made.state / "dataset.yaml")
    router = {"dataset": str(made.state / "dataset.yaml"), "experiment": "x", "ledger": str(made.state / "none.sqlite")}
    router["lake"] = str(made.state / "lake")
    (made.state / "router.yaml").write_text(yaml.safe_dump(router))
    return made


@contextmanager
def running(folder: ExperimentFolder) -> Iterator[tuple[Runner, list[str]]]:
    said: list[str] = []
    with Runner([folder], lambda _, __, words: said.append(words)) as runner:
        yield runner, said


def serving(folder: ExperimentFolder) -> Experiment:
    return Experiment.load(folder.in_force)


def edit(folder: ExperimentFolder, **fields: Any) -> None:
    folder.file.write_text(yaml.safe_dump({**yaml.safe_load(folder.file.read_text()), **fields}))


def test_the_status_document_is_kept_and_only_news_is_reported(folder: ExperimentFolder) -> None:
    with running(folder) as (runner, said):
        assert not runner.advance() and not runner.advance()
        (view,) = runner.views
        assert view["phase"] == "50%" and said[0] == f"waits: {'; '.join(view['next']['waits'])}"
        assert len(said) == 1, "a larger figure alone must not be reported"
        act(folder, "move", by="person", reason="enough", at=time.time(), to="stopped")
        assert runner.advance() and runner.views[0]["phase"] == "stopped"


def test_an_edit_is_applied_while_the_log_is_read(folder: ExperimentFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    looking, done = threading.Event(), threading.Event()

    def step(*_: Any) -> Hold:
        looking.set()
        done.wait(60)
        return Hold((Message("the last stage"),))

    monkeypatch.setattr(module, "next_step", step)
    with running(folder) as (runner, _):
        thread = threading.Thread(target=runner.advance)
        thread.start()
        looking.wait(60)
        for fields, enabled in (({"alpha": 0.2}, True), ({"alpha": 0.05, "enabled": False}, False)):
            edit(folder, **fields)
            eventually(lambda enabled=enabled: serving(folder).enabled == enabled)
        assert thread.is_alive() and serving(folder).alpha == 0.05
        done.set()
        thread.join()


def test_a_kill_switch_in_an_invalid_file_is_applied_and_reported(folder: ExperimentFolder) -> None:
    with running(folder) as (runner, said):
        edit(folder, enabled=False, nonsense=3)
        assert not runner.advance() and not serving(folder).enabled
        assert said[-1].startswith("switched off") and "'nonsense'" in said[-1]


def test_a_brief_clock_jump_ends_nothing(folder: ExperimentFolder) -> None:
    now, looks = time.time(), 0
    edit(folder, planned_end=datetime.fromtimestamp(now + 30 * 86_400, UTC).isoformat())
    year = 365 * 86_400
    with running(folder) as (runner, _):
        runner._clock, runner._jumps = lambda: now + (looks % 2) * year + looks, ClockJumps(lambda: float(looks))
        for looks in range(5):  # noqa: B007
            assert not runner.advance()
    assert state(folder)[1].phase == "50%"


@pytest.mark.parametrize("fault", ["the file", "the history", "the log", "no router", "a full disk"])
def test_it_continues_after_a_fault(fault: str, folder: ExperimentFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(folder, planned_end="2026-01-01T00:00:00Z")
    whole, router = folder.file.read_text(), (folder.state / "router.yaml").read_text()
    history = folder.history.read_bytes()
    rubbish = folder.state / "lake" / "arrived" / "decisions" / "date=2026-01-01" / "hour=12" / "rubbish.parquet"
    with running(folder) as (runner, said):
        if fault == "the file":
            folder.file.write_text("{")
        elif fault == "the history":
            folder.history.write_bytes(b"\xff\n" + history)
        elif fault == "the log":
            rubbish.parent.mkdir(parents=True)
            rubbish.write_text("rubbish")
        elif fault == "no router":
            (folder.state / "router.yaml").unlink()

        def full(*_: Any) -> Hold:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            if fault == "a full disk":
                patch.setattr(module, "next_step", full)
            assert not runner.advance() and not runner.advance()
            assert len(said) == 1 and said[0].startswith("nothing changes: ")
            with pytest.raises(module._MENDABLE):
                runner.advance(strict=True)
        assert serving(folder).stage == "50%"
        folder.history.write_bytes(history)
        assert len(folder.events()) == 1
        folder.file.write_text(whole)
        (folder.state / "router.yaml").write_text(router)
        rubbish.unlink(missing_ok=True)
        assert runner.advance() and serving(folder).shares()["incumbent"] == 1.0, "the planned end has passed"
