"""Runs on a folder: what they use again, what they leave, and who may work there."""
# No annotations from __future__: kfp reads those of the components below as objects.

import fcntl
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components.component import component
from components.notify import notify
from monitoring.pipeline_runs import newest_runs
from pipelines import local, on_volume
from pipelines.on_volume import run_on
from pipelines.profile import Profile
from pipelines.server import RequestError
from pipelines.steps import Step


@component("look", cached=False)
def look(path: str) -> str:
    """What a file holds now."""
    from pathlib import Path

    from mtorl.runtime.step import step

    with step():
        return Path(path).read_text()


@component("make")
def make(content: str, count: int, code_version: str, made: Output[Artifact]):
    """Something of it."""
    from pathlib import Path

    Path(made.path).write_text(f"made of {content}")


@component("use", cached=False)
def use(made: Input[Artifact]) -> str:
    """What was made."""
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


def silent(step: Step, done: float, total: float, note: str) -> None:
    pass


def run(volume: Path, log: Path) -> on_volume.Ended:
    return run_on(volume, "small", {"path": str(log)}, silent)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_text("one")
    return tmp_path / "log"


def test_an_unchanged_file_is_a_hit_and_a_changed_one_at_its_path_never_is(tmp_path: Path, log: Path) -> None:
    first = run(tmp_path / "volume", log)
    assert first.cached == () and first.steps["use"].values["Output"] == "made of one"
    again = run(tmp_path / "volume", log)
    assert again.cached == ("make",) and again.steps["use"].values["Output"] == "made of one"
    log.write_text("two")
    changed = run(tmp_path / "volume", log)
    assert changed.cached == () and changed.steps["use"].values["Output"] == "made of two"
    log.write_text("one")
    assert run(tmp_path / "volume", log).cached == ("make",)


def test_a_default_is_the_same_as_its_value_when_somebody_says_it(tmp_path: Path, log: Path) -> None:
    first = run_on(tmp_path / "volume", "small", {"path": str(log)}, silent)
    assert first.cached == ()
    assert run_on(tmp_path / "volume", "small", {"path": str(log), "count": "1"}, silent).cached == ("make",)
    assert run_on(tmp_path / "volume", "small", {"path": str(log), "count": "2"}, silent).cached == ()


def test_other_code_makes_everything_anew(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "volume", log)
    monkeypatch.setattr(on_volume, "_code_version", lambda: "another")
    assert run(tmp_path / "volume", log).cached == ()


def test_old_runs_go_but_not_what_the_newest_has_read(tmp_path: Path, log: Path) -> None:
    volume = tmp_path / "volume"
    first = run(volume, log)
    for _ in range(5):
        assert run(volume, log).cached == ("make",), "what is used stays, however old"
    folders = sorted((volume / "runs" / "local").iterdir())
    assert len(folders) == 4 and folders[0] == first.folder
    for content in ("two", "three", "four", "five"):
        log.write_text(content)
        run(volume, log)
    assert len(list((volume / "runs" / "local").iterdir())) == 3
    assert len(list((volume / "runs" / "cache").glob("*.json"))) == 3
    log.write_text("one")
    assert run(volume, log).cached == (), "it was made so long ago that it is gone"


def test_how_it_ended_is_kept(tmp_path: Path, log: Path) -> None:
    volume = tmp_path / "volume"
    run(volume, log)
    log.unlink()
    with pytest.raises((local.InputError, local.PipelineError), match="No such file"):
        run(volume, log)
    (ended,) = newest_runs(volume / "runs")
    assert ended.failed and "No such file" in ended.why["look"] and ended.succeeded is not None


def test_two_at_once_are_one_too_many(tmp_path: Path, log: Path) -> None:
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another run is at work on this folder"):
            run(tmp_path, log)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("large", {}, "no pipeline 'large'; there are small"),
        ("small", {}, "can't do without: path"),
        ("small", {"path": "x", "count": "many"}, "expected a whole number, got 'many'"),
        ("mtorl-small", {"path": "x", "speed": "1"}, "no parameter 'speed'"),
    ],
)
def test_what_can_not_be_run_is_said(tmp_path: Path, name: str, parameters: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        run_on(tmp_path, name, parameters, silent)
