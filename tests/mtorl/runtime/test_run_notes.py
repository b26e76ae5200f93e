"""Why steps could not go on is kept for the run's last step, and never hides the reason itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtorl.runtime import run_notes
from mtorl.runtime.step import step


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(run_notes.RUNS, str(tmp_path))
    monkeypatch.setenv(run_notes.RUN_ID, "one")
    return tmp_path


def test_what_ends_a_step_is_noted_under_its_name(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, error in (("ingest", ValueError("no rows")), ("train_challenger", KeyError("epochs"))):
        monkeypatch.setattr("sys.argv", ["kfp", "--function_to_execute", name])
        with pytest.raises((SystemExit, KeyError)), step(ValueError):
            raise error
    assert run_notes.notes() == {"ingest": "no rows", "train-challenger": "KeyError: 'epochs'"}


def test_nothing_is_noted_outside_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_notes.RUNS, raising=False)
    run_notes.note("why")
    assert run_notes.notes() == {}


def test_a_folder_that_can_not_be_written_hides_nothing(runs: Path) -> None:
    (runs / "notes").write_text("a file in the way")
    with pytest.raises(SystemExit, match="the reason"), step(ValueError):
        raise ValueError("the reason")


def test_notes_of_old_runs_go(runs: Path) -> None:
    for number in range(40):
        folder = runs / "notes" / f"old-{number:02}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    run_notes.note("why")
    assert run_notes.notes() == {"step": "why"}
    assert sorted(path.name for path in (runs / "notes").iterdir()) == [
        "old-10",
        *[f"old-{n}" for n in range(11, 40)],
        "one",
    ]
