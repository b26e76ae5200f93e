"""Tests that a run on a volume reuses cached steps and cannot start during another one."""
# No `from __future__ import annotations`: kfp needs the annotations below as objects.

import contextlib
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components.component import component
from components.notify.component import notify
from monitoring.pipeline_runs import newest_runs
from mtorl.runtime.errors import InputError
from pipelines import local, on_volume
from pipelines.messages import RUN_AT_WORK
from pipelines.on_volume import run_on
from pipelines.profile import Profile
from tests.messages import raises
from tests.pipelines.forked_steps import silent
from tests.waiting import eventually


def component_here(title: str, **traits: bool) -> Callable[[Callable[..., Any]], Any]:
    """Define a component whose source is embedded in the step."""

    def decorate(function: Callable[..., Any]) -> Any:
        made = component(title, **traits)(function)
        own = dsl.component(function, base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
        made.component_spec.implementation.container.command = own.component_spec.implementation.container.command
        return made

    return decorate


@component_here("look", cached=False)
def look(path: str) -> str:
    import time
    from pathlib import Path

    from mtorl.runtime.step import step

    with step():
        Path(f"{path}.seen").touch()
        while (text := Path(path).read_text()) == "wait":
            time.sleep(0.05)
        return text


@component_here("make")
def make(content: str, count: int, code_version: str, made: Output[Artifact]):
    from pathlib import Path

    Path(made.path).write_text(f"made of {content}")


@component_here("use", cached=False)
def use(made: Input[Artifact]) -> str:
    from pathlib import Path

    return Path(made.path).read_text()


def build(profile: Profile) -> Any:
    @dsl.pipeline(name="mtorl-small")
    def small(path: str, count: int = 1, code_version: str = "0"):
        with dsl.ExitHandler(profile.step(notify(pipeline="mtorl-small", runs=profile.runs))):
            content = profile.step(look(path=path)).output
            made = profile.step(make(content=content, count=count, code_version=code_version)).outputs["made"]
            profile.step(use(made=made))

    return small


@pytest.fixture(autouse=True)
def only_a_small_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_volume, "PIPELINES", {"small": build})


def run(volume: Path, log: Path) -> on_volume.Ended:
    return run_on(volume, "small", {"path": str(log)}, silent)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text("one")
    return tmp_path / "log"


def test_an_unchanged_file_is_a_cache_hit_and_a_changed_one_is_a_miss(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "volume", log)
    assert first.cached == () and first.steps["use"].values["Output"] == "made of one"
    again = run(tmp_path / "volume", log)
    assert again.cached == ("make",) and again.steps["use"].values["Output"] == "made of one"
    log.write_text("two")
    changed = run(tmp_path / "volume", log)
    assert changed.cached == () and changed.steps["use"].values["Output"] == "made of two"
    log.write_text("one")
    assert run(tmp_path / "volume", log).cached == ("make",)
    # An explicit default has the cache key of a missing parameter.
    for count, cached in (("1", ("make",)), ("2", ())):
        assert run_on(tmp_path / "volume", "small", {"path": str(log), "count": count}, silent).cached == cached
    monkeypatch.setattr(local, "code_version", lambda: "another")
    assert run(tmp_path / "volume", log).cached == ()


def test_old_runs_are_deleted_except_outputs_that_newer_runs_use(tmp_path: Path, log: Path) -> None:
    volume = tmp_path / "volume"
    first = run(volume, log)
    for _ in range(5):
        assert run(volume, log).cached == ("make",), "a cached output in use must stay, however old"
    folders = sorted((volume / "runs" / "local").iterdir())
    assert len(folders) == 4 and folders[0] == first.folder
    for content in ("two", "three", "four", "five"):
        log.write_text(content)
        run(volume, log)
    assert len(list((volume / "runs" / "local").iterdir())) == 3
    assert len(list((volume / "runs" / "cache").glob("*.json"))) == 3
    log.write_text("one")
    assert run(volume, log).cached == (), "an old unused output must be deleted"
    log.unlink()
    for _ in range(4):
        with pytest.raises((InputError, local.PipelineError), match="No such file"):
            run(volume, log)
    (ended,) = newest_runs(volume / "runs")
    assert ended.failed and "No such file" in ended.why["look"] and ended.succeeded is not None
    log.write_text("one")
    assert run(volume, log).cached == ("make",), "failed runs must not evict the cache"
    assert not list((volume / "runs" / "local").glob("*/tmp"))


def test_a_second_concurrent_run_is_refused(tmp_path: Path, log: Path) -> None:
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("whose it is")
        lock.flush()
        with raises(InputError, RUN_AT_WORK):
            run(tmp_path, log)
    assert (tmp_path / "runs" / ".lock").read_text() == "whose it is"


def at_work(volume: Path, log: Path) -> BaseProcess:
    log.write_text("wait")
    log.with_name("log.seen").unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=run, args=(volume, log))
    process.start()
    eventually(lambda: not process.is_alive() or log.with_name("log.seen").exists(), 300)
    assert process.is_alive()
    return process


def test_the_next_run_reports_a_killed_run_and_stops_its_step(tmp_path: Path, log: Path) -> None:
    volume = tmp_path / "volume"
    run(volume, log)
    process = at_work(volume, log)
    process.kill()
    process.join()
    (before,) = newest_runs(volume / "runs")
    assert not before.failed, "a killed run can't report itself"
    (killed,) = (folder.name for folder in (volume / "runs" / "local").iterdir() if folder.name != before.run)
    assert left_at_work(killed)
    log.unlink()
    with pytest.raises((InputError, local.PipelineError), match="No such file"):
        run(volume, log)
    (ended,) = newest_runs(volume / "runs")
    assert ended.failed_in_a_row == 2 and ended.run != killed
    assert not left_at_work(killed)


def left_at_work(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [process] if process.environ().get("MTORL_RUN_ID") == run_id else []
    return found


def test_an_interrupted_run_is_cancelled_not_failed(tmp_path: Path, log: Path) -> None:
    volume = tmp_path / "volume"
    run(volume, log)
    process = at_work(volume, log)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    (ended,) = newest_runs(volume / "runs")
    assert ended.state == "CANCELLED" and not ended.failed_in_a_row
    assert not left_at_work(ended.run)
    log.write_text("two")
    run(volume, log)
    (ended,) = newest_runs(volume / "runs")
    assert ended.state == "SUCCEEDED"


def test_an_unwritable_log_does_not_stop_a_run(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *given: Any, **more: Any) -> Any:
        if path.name == "pipeline.log" and "w" in mode:
            path.touch()
            path = Path("/dev/full")
        return opened(path, mode, *given, **more)

    monkeypatch.setattr(Path, "open", full)
    assert run(tmp_path / "volume", log).steps["use"].values["Output"] == "made of one"
    log.unlink()
    with pytest.raises((InputError, local.PipelineError), match=r"No space .*pipeline\.log"):
        run(tmp_path / "volume", log)
    (ended,) = newest_runs(tmp_path / "volume" / "runs")
    assert ended.failed and "No such file" in ended.why["look"]


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("large", {}, "no pipeline 'large'; there are small"),
        ("small", {}, "required parameters are missing: path"),
        ("small", {"path": "x", "count": "many"}, "expected a whole number, got 'many'"),
        ("mtorl-small", {"path": "x", "speed": "1"}, "no parameter 'speed'"),
    ],
)
def test_invalid_parameters_are_refused(tmp_path: Path, name: str, parameters: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_on(tmp_path, name, parameters, silent)
