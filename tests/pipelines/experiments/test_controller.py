"""Tests that a laptop's experiment follows commands and the ramp, and recovers from crashes."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment import messages as experiment_messages
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError, IllegalEvent, state_of
from mtorl.experiment.stage_machine import ArmEvidence, Evidence, Hold, Move, in_force
from pipelines import messages
from pipelines.experiments import folder as folder_module
from pipelines.experiments.controller import act, apply_experiment, next_step
from pipelines.experiments.folder import ExperimentFolder
from tests.features.collect.decision_logs import SPEC
from tests.messages import assert_says, raises
from tests.mtorl.experiment.experiments import FILE

ZERO = experiment_messages.UNDECIDED(low=-1.0, high=1.0)
WELL = Evidence("inconclusive", ZERO, "challenger", (), dict.fromkeys(("incumbent", "challenger"), ArmEvidence(500)))
HOUR = 3600.0


def folder_of(place: Path, **changes: Any) -> ExperimentFolder:
    file = place / "first-day.yaml"
    file.write_text(yaml.safe_dump({**FILE, **changes}))
    return ExperimentFolder.of(file)


def edit(folder: ExperimentFolder, **changes: Any) -> None:
    folder.file.write_text(yaml.safe_dump({**FILE, **changes}))


def serving(folder: ExperimentFolder) -> Experiment:
    return Experiment.load(folder.in_force)


def do(folder: ExperimentFolder, kind: Any, to: Any = None, at: float = 0.0, **what: Any) -> Experiment:
    return act(folder, kind, by="person", reason="a test", at=at, to=to, **what)


def well(_: Experiment, __: float) -> Evidence | None:
    return WELL


def test_the_ramp_waits_for_its_hours_and_records_its_evidence(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert not apply_experiment(folder).enabled and not serving(folder).enabled
    do(folder, "move", "shadow", at=0.0)
    assert isinstance(next_step(folder, well, 0.5 * HOUR), Hold)
    step = next_step(folder, well, 1 * HOUR)
    assert isinstance(step, Move) and step.to == serving(folder).stage == "5%"
    assert_says(step.reason, experiment_messages.STAGE_DONE, lasted="1 hours", stage="shadow")
    event = folder.events()[-1]
    assert (event.to, event.by, event.code) == ("5%", "ramp", step.reason.code) and event.evidence is not None
    assert event.evidence["arms"]["challenger"] == {"users": 500, "fallback_ratio": 0.0, "latency_seconds": None}


def test_evidence_is_read_for_the_active_stage_since_it_began(tmp_path: Path) -> None:
    folder, asked = folder_of(tmp_path), []

    def look(experiment: Experiment, since: float) -> None:
        asked.append((experiment.stage, since))

    next_step(folder, look, 0.0)
    assert asked == []  # a draft has no evidence to read
    do(folder, "move", "5%", at=7.0)
    next_step(folder, look, 8.0)
    do(folder, "kill", at=9.0)
    next_step(folder, look, 10.0)
    do(folder, "resume", at=11.0)
    next_step(folder, look, 12.0)
    assert asked == [("5%", 7.0), ("5%", 7.0), ("5%", 11.0)], "a draft has no evidence; a kill switch does not end it"


def test_a_kill_while_the_log_is_read_takes_effect(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "shadow")

    def look(_: Experiment, __: float) -> Evidence:
        do(folder, "kill", at=HOUR)
        return WELL

    assert isinstance(next_step(folder, look, 2 * HOUR), Hold)
    assert not serving(folder).enabled


def test_an_invalid_file_changes_nothing_but_the_kill_switch_works(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "5%")
    for content in ("{", yaml.safe_dump({**FILE, "alpha": 0.2})):
        folder.file.write_text(content)
        with pytest.raises(ExperimentError):
            next_step(folder, well, 1e9)
        with pytest.raises(ExperimentError):
            do(folder, "move", "50%")
        assert (serving(folder).enabled, serving(folder).stage) == (True, "5%")
    do(folder, "kill")
    assert not serving(folder).enabled
    edit(folder, owner="somebody else")
    do(folder, "resume")
    assert (serving(folder).stage, serving(folder).owner) == ("5%", "somebody else")


def test_an_experiment_that_the_router_would_refuse_is_not_applied(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")
    SPEC.save(tmp_path / "dataset.yaml")
    (folder.state / "router.yaml").write_text(yaml.safe_dump({"dataset": str(tmp_path / "dataset.yaml")}))
    edit(folder, default_channel="serach")
    with raises(ExperimentError, experiment_messages.UNKNOWN_CHANNEL, channel="serach"):
        apply_experiment(folder)
    do(folder, "kill")
    assert (serving(folder).enabled, serving(folder).default_channel) == (False, "search")


def test_a_lock_held_too_long_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_LOCK_SECONDS", 0.2)
    folder = folder_of(tmp_path)
    with folder.locked(), raises(TimeoutError, messages.LOCK_HELD, seconds=0.2):
        do(folder, "kill")
    do(folder, "kill")


def test_a_retried_command_finishes_the_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ExperimentFolder, "apply_experiment", full)
        with pytest.raises(OSError, match="No space"):
            do(folder, "kill")
    assert serving(folder).enabled
    for _ in range(2):
        assert not do(folder, "kill").enabled and not serving(folder).enabled
    before = folder.in_force.stat().st_mtime_ns
    apply_experiment(folder)
    assert folder.in_force.stat().st_mtime_ns == before, "the router's file must be written only when it changes"
    assert [event.kind for event in folder.events()] == ["move", "kill"]


@pytest.mark.parametrize("by", ["another salt in between", "what is in force is lost"])
def test_fields_of_the_measurement_stay_fixed_however_the_file_changes(by: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")
    if by == "another salt in between":
        edit(folder, alpha=0.2, salt="b")
        apply_experiment(folder)
    else:
        folder.in_force.unlink()
    edit(folder, alpha=0.2)
    with raises(ExperimentError, messages.FIXED_FIELDS, fields="alpha"):
        apply_experiment(folder)


def test_the_kill_switch_works_with_an_unreadable_history(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")
    folder.history.write_text("rubbish\n" + folder.history.read_text())
    with raises(HistoryError, experiment_messages.NO_EVENT, number=1):
        do(folder, "resume")
    assert serving(folder).enabled
    with raises(HistoryError, messages.KILL_NOT_WRITTEN):
        do(folder, "kill")
    assert not serving(folder).enabled


@pytest.mark.parametrize("fault", ["alpha", "a field", "the history", "bytes in the history", "the router's settings"])
def test_the_kill_switch_in_the_file_works_whatever_else_is_invalid(fault: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")
    changes = {"alpha": {"alpha": 0.2}, "a field": {"arms": 3}}.get(fault, {})
    if "history" in fault:
        folder.history.write_bytes(b"rubbish\n" if fault == "the history" else b"\xff\n")
    if fault == "the router's settings":
        (folder.state / "router.yaml").write_text("dataset: [")
    for enabled in (True, False, True):
        edit(folder, **{**changes, "enabled": enabled})
        before = serving(folder)
        with pytest.raises((ExperimentError, HistoryError)):
            apply_experiment(folder)
        assert serving(folder) == (before if enabled else before.replace(enabled=False))


class Killed(BaseException):
    """Raised between two writes to simulate a crash of the process."""


steps = st.lists(
    st.tuples(st.sampled_from(["tick", "kill", "resume", "ramp 5%", "ramp 50%", "stop"]), st.integers(0, 4)),
    max_size=15,
)


@given(steps=steps)
def test_a_crash_between_any_two_writes_loses_and_repeats_nothing(steps: Any, tmp_path_factory: Any) -> None:
    folder = folder_of(tmp_path_factory.mktemp("killed"))
    do(folder, "move", "shadow")
    now = 0.0
    for name, killed_at in steps:
        now += HOUR
        before = folder.events()
        with pytest.MonkeyPatch.context() as patch:
            _kill_at(patch, killed_at)
            with contextlib.suppress(Killed, IllegalEvent):
                _try(folder, name, now)
        events = folder.events()
        assert events[: len(before)] == before and len(events) <= len(before) + 1
        # The next command must complete what the killed one began.
        apply_experiment(folder)
        experiment = folder.definition()
        assert serving(folder) == in_force(experiment, state_of(events, experiment))


def _try(folder: ExperimentFolder, name: str, now: float) -> None:
    if name == "tick":
        next_step(folder, well, now)
    elif name.startswith("ramp"):
        do(folder, "move", name.split()[1], at=now)
    elif name == "stop":
        do(folder, "move", "stopped", at=now)
    else:
        do(folder, name, at=now)


def _kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Simulate a crash before the given write, or after it during the next line of the history."""
    left = [number]

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def maybe(self: ExperimentFolder, what: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            write(self, what)
            if left[0] == 1 and write.__name__ == "append":
                with open(self.history, "a") as file:
                    file.write('{"number":')  # a torn next line
                raise Killed

        return maybe

    for name in ("append", "apply_experiment"):
        patch.setattr(ExperimentFolder, name, dying(getattr(ExperimentFolder, name)))


def test_concurrent_commands_take_turns(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    do(folder, "move", "50%")

    def use_the_switch(_: int) -> None:
        for kind in ["kill", "resume"] * 5:
            with contextlib.suppress(IllegalEvent):
                do(folder, kind)

    with ThreadPoolExecutor(4) as controllers:
        list(controllers.map(use_the_switch, range(4)))
    # `events` would raise an error if the numbers of the events had a gap.
    kinds = [event.kind for event in folder.events()[1:]]
    assert len(kinds) > 1 and all(one != other for one, other in pairwise(kinds)), "used twice in the same direction"
    assert serving(folder).enabled == (kinds[-1] == "resume")


def test_without_a_router_the_working_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spring.yaml").touch()
    assert not ExperimentFolder.of(Path("spring.yaml")).router_reads_file()
