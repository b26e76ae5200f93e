"""Tests that a run folder keeps finished stages' results, and resumes only with equal settings."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.errors import InputError
from pipelines import messages
from pipelines.loop.config import LoopConfig
from pipelines.loop.run_folder import at_work, begin, can_be_served, finish, new_run, outputs_of, set_aside, to_resume
from tests.messages import raises


@pytest.fixture
def config(tmp_path: Path) -> LoopConfig:
    DatasetSpec.load("simulator").save(tmp_path / "my.yaml")
    (tmp_path / "log.csv").write_text("user_id\n")
    return LoopConfig(
        data=str(tmp_path / "log.csv"), dataset=str(tmp_path / "my.yaml"), epochs=2, root=tmp_path / "runs"
    )


@pytest.fixture
def run(config: LoopConfig) -> Path:
    made = new_run(config.root)
    begin(made, config)
    return made


def changes(config: LoopConfig, **asked: Any) -> str:
    with raises(InputError, messages.RUN_DIFFERS) as refused:
        to_resume(config.root, asked)
    return str(refused.value.args[0].values["changes"])


def test_a_run_resumes_with_its_settings(config: LoopConfig, run: Path) -> None:
    (config.root / "latest").symlink_to(run.name)
    assert to_resume(config.root, {}) == (run, config)
    assert to_resume(config.root, {"epochs": 2, "data": config.data}) == (run, config)
    assert [one.split()[0] for one in changes(config, epochs=3, min_lift=0.5).split("; ")] == ["--epochs", "--min-lift"]
    assert outputs_of(run, "train") is None and not can_be_served(run)
    finish(run, "train", {"steps": {}})
    assert outputs_of(run, "train") == {"steps": {}} and can_be_served(run)


def test_the_command_resumes_with_the_settings_of_the_run_unless_overridden(
    config: LoopConfig, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_loop(settings: LoopConfig, on_step: Any, interrupted: Path) -> Path:
        raise RuntimeError(f"{settings.epochs} at {interrupted.name}")

    monkeypatch.setattr("pipelines.loop.run.run_loop", run_loop)
    command = ["run", "--resume", "--root", str(config.root)]
    assert f"2 at {run.name}" in CliRunner().invoke(app, command).stderr
    told = CliRunner().invoke(app, [*command, "--epochs", "3"])
    assert told.exit_code == 2 and "--epochs" in told.stderr


def test_rehearsal_settings_may_change_until_it_is_finished(config: LoopConfig, run: Path) -> None:
    finish(run, "train", {})
    _, changed = to_resume(config.root, {"rounds": 2, "runtime": "predictor"})
    assert asdict(changed) == {**asdict(config), "rounds": 2, "runtime": "predictor"}
    finish(run, "rehearse", {})
    assert "--rounds" in changes(config, rounds=2)


@pytest.mark.parametrize("changed", ["log.csv", "my.yaml"])
def test_a_run_of_other_data_is_refused_by_name(config: LoopConfig, run: Path, tmp_path: Path, changed: str) -> None:
    text = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text(text.replace("user_id\n", "user_id\nu1\n", 1).replace("name: ", "name: x", 1))
    assert str(config.data) in changes(config)


def test_no_run_to_resume_is_an_error(config: LoopConfig, run: Path, tmp_path: Path) -> None:
    finish(run, "report", {})
    with raises(InputError, messages.RUN_FINISHED, run=run):
        to_resume(config.root, {})
    with raises(InputError, messages.NO_RUN):
        to_resume(tmp_path / "nowhere", {})
    (tmp_path / "log.csv").unlink()
    with pytest.raises(InputError, match=r"log\.csv:"):
        begin(new_run(config.root), config)


def test_a_run_in_progress_or_being_served_is_refused(run: Path) -> None:
    with at_work(run, shared=True), at_work(run, shared=True), pytest.raises(InputError, match="at work"), at_work(run):
        pass
    with at_work(run), pytest.raises(InputError, match="at work"), at_work(run, shared=True):
        pass


def test_files_of_an_interrupted_rehearsal_are_kept(run: Path) -> None:
    for name in ("serving/spool", "lake", "features"):
        (run / name).mkdir(parents=True)
    for name in ("serving/spool/1.log", "lake/1.parquet", "serving.yaml", "features/online.db", "features/registry.db"):
        (run / name).write_text(name)
    set_aside(run)
    (kept,) = run.glob("interrupted-*")
    assert {path.name for path in kept.iterdir()} == {"serving", "lake", "serving.yaml", "online.db"}
    assert (kept / "serving" / "spool" / "1.log").exists() and (run / "features" / "registry.db").exists()
