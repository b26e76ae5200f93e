"""Tests of faults at night: each fault causes an alert, and the next night succeeds.

Each step runs in its own process, as on a cluster.
"""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from monitoring.pipeline_runs import PipelineRun, newest_runs
from mtorl.artifact.artifact import load
from mtorl.log import trainings
from mtorl.runtime import files
from mtorl.runtime import step as steps_end
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import sha256_of
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from pipelines import on_volume
from pipelines.local import CACHED, PipelineError
from pipelines.on_volume import Ended, run_on
from pipelines.steps import OnStep, Step
from tests.pipelines.forked_steps import forked_steps, silent

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SETTINGS = {
    **{"dataset": "simulator", "epochs": "1", "min_lift": "-9", "settings": "{hidden: 8, levels: 1, heads: 1}"},
    **{"bad_rows": "quarantine", "code_version": "test"},
}
MAKES = {"ingest", "build-features", "fit-incumbent", "train-challenger", "evaluate", "package", "smoke-test"}
"""Steps that run once for the same data."""


class Volume:
    def __init__(self, folder: Path, log: pd.DataFrame) -> None:
        self.folder, self.log = folder, folder / "touchpoints.parquet"
        folder.mkdir()
        log.to_parquet(self.log, index=False)

    def night(self, on_step: OnStep, **more: str) -> Ended:
        return run_on(self.folder, "train", {"source": str(self.log), **SETTINGS, **more}, on_step)

    def versions(self) -> list[str]:
        """Return all published digests; loading a version verifies its checksums."""
        found = sorted((self.folder / "registry" / "challenger").glob("[!.]*"))
        assert all((version / "model-store" / "challenger.mar").stat().st_size for version in found)
        return [load(version / "artifact").digest for version in found]

    def newest_run(self) -> PipelineRun | None:
        return next(iter(newest_runs(self.folder / "runs")), None)

    def trainings(self) -> int:
        return len(trainings.read(self.folder / "trainings"))

    def unfinished(self) -> list[str]:
        hidden = (path for path in self.folder.rglob(".*") if path.name != ".lock")
        return [str(path) for path in hidden if "local" not in path.parts]


FAULT = "MTORL_TEST_FAULT"
"""Environment variable: "disk STEP" fills the disk from this step on; "kill STEP" kills it after its last write."""


def break_step(name: str) -> None:
    kind, _, at = os.environ.get(FAULT, "").partition(" ")
    if kind == "disk" and name in (at, "notify"):
        files._swap = full_disk  # type: ignore[assignment]
    if kind == "kill" and name == at:
        # A step calls `note` last.
        steps_end.note = lambda why: kill()


def full_disk(new: Path, path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))


@pytest.fixture(scope="module", autouse=True)
def imported_steps() -> Iterator[None]:
    with forked_steps(break_step):
        yield


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    return Simulator(SimulatorConfig(users=600, days=8, seed=5)).log()


def killed(body: Callable[[], Any]) -> bool:
    """Call `body` in a forked process; returns whether that process was killed."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_night_killed_at_every_step_in_turn_completes(tmp_path: Path, log: pd.DataFrame) -> None:
    volume, killed_at = Volume(tmp_path / "volume", log), tmp_path / "killed_at"
    killed_at.touch()

    def kill_at_a_new_step(step: Step, done: float, total: float, note: str) -> None:
        if done == 0 and note != CACHED and step.name not in killed_at.read_text().split():
            with killed_at.open("a") as file:
                file.write(f"{step.name}\n")
            kill()

    while killed(lambda: volume.night(kill_at_a_new_step)):
        at = killed_at.read_text().split()
        published = volume.versions()
        assert len(published) == ("publish" in at[:-1]), "publishing must be atomic"
        last = volume.newest_run()
        if len(at) == 1:
            assert last is None, "a killed run can't report itself"
        else:
            assert last is not None and last.failed and at[-2] in last.why, "the next run must report the killed one"
            assert last.failed_in_a_row == len(at) - 1 and "killed" in last.why[at[-2]]
    at = killed_at.read_text().split()
    assert at[-1] == "notify" and "publish" in at and set(at) > MAKES
    last = volume.newest_run()
    assert last is not None and last.state == "SUCCEEDED" and last.failed_in_a_row == 0
    assert len(volume.versions()) == 1 and not volume.unfinished()
    assert not list((volume.folder / "checkpoints").glob("*"))
    again = volume.night(silent)
    assert set(again.cached) == MAKES, "finished steps must be cached across kills"
    folders = list((volume.folder / "runs" / "local").iterdir())
    assert len(folders) <= 3 + len(MAKES), "only the newest runs and their cached inputs may stay"
    assert not [path for folder in folders for path in folder.glob("tmp/*")]


def test_each_fault_is_reported(tmp_path: Path, log: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(tmp_path / "volume", log)
    for fault, step, words, cached in (
        ("kill", "ingest", "it exited without a message: probably killed", set[str]()),
        ("disk", "train-challenger", "No space left on device", set()),
        ("disk", "gate", "No space left on device", MAKES - {"train-challenger", "evaluate", "package", "smoke-test"}),
        ("disk", "publish", "No space left on device", MAKES),
        ("kill", "publish", "it exited without a message: probably killed", MAKES),
    ):
        kind = InputError if fault == "disk" else PipelineError
        with monkeypatch.context() as patch, pytest.raises(kind, match=str(tmp_path)) as ended:
            patch.setenv(FAULT, f"{fault} {step}")
            volume.night(silent)
        last = volume.newest_run()
        assert last is not None and last.failed and words in str(last), "the reason must survive a full disk"
        assert step in last.why and (fault == "kill" or "No space" in str(ended.value))
        assert len(volume.versions()) == ((fault, step) == ("kill", "publish")) and not volume.unfinished()
        assert cached <= answered(volume), "steps finished before the fault must be cached"
    published = volume.versions()
    assert set(volume.night(silent).cached) == MAKES and volume.versions() == published
    with monkeypatch.context() as patch, pytest.raises(PipelineError):
        patch.setenv(FAULT, "kill notify")
        volume.night(silent)
    last = volume.newest_run()
    assert last is not None and last.state == "SUCCEEDED", "the run had succeeded before the kill"


def answered(volume: Volume) -> set[str]:
    newest = max((volume.folder / "runs" / "local").iterdir())
    return {step for step in MAKES if f"Task {step} cache hit" in (newest / "pipeline.log").read_text()}


def test_two_concurrent_runs_train_identical_models_from_one_log(tmp_path: Path, log: pd.DataFrame) -> None:
    """The lock of the volume is disabled, so that both pipelines run at once, as they may on a cluster.

    The removal of old files is disabled, too, because it would delete the other run's files.
    """
    volume, context = Volume(tmp_path / "volume", log), multiprocessing.get_context("fork")

    def run(pipeline: str) -> None:
        alone = mock.patch.object(on_volume, "_alone", lambda *_: nullcontext())
        with alone, mock.patch.object(on_volume, "_prune"):
            run_on(volume.folder, pipeline, {"source": str(volume.log), **SETTINGS}, silent)

    (volume.folder / "runs").mkdir()
    both = [context.Process(target=run, args=(name,)) for name in ("train", "retrain")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert 1 <= len(volume.versions()) <= 2 and volume.trainings() == 2 and not volume.unfinished()
    found = list((volume.folder / "registry" / "challenger").glob("[!.]*/artifact/weights.pt"))
    assert len({sha256_of(file) for file in found}) == 1, "versions may differ only in their time"
    assert {run.pipeline: run.state for run in newest_runs(volume.folder / "runs")} == {
        "mtorl-train": "SUCCEEDED",
        "mtorl-retrain": "SUCCEEDED",
    }
