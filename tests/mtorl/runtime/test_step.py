import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import Words
from mtorl.runtime.step import RUN_ID, RUNS, note, notes, step


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv(progress.ENV, str(path))
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_invalid_input_ends_a_step_with_its_message_and_note(events: Path) -> None:
    message, note = Words("no-log", "{file}: no such file")(file="log.csv"), "Give another path"
    with pytest.raises(SystemExit) as stopped, step():
        error = InputError(message)
        error.add_note(note)
        raise error
    assert stopped.value.code == f"mtorl: {message}\n{note}"
    event = json.loads(events.read_text())
    assert event == {"input_error": message, "code": message.code, "values": message.values}


def test_any_other_error_shows_its_traceback(events: Path) -> None:
    with pytest.raises(ZeroDivisionError), step():
        raise ZeroDivisionError
    assert not events.exists()


def test_a_full_or_forbidden_volume_is_reported_in_one_line() -> None:
    with pytest.raises(SystemExit, match=rf"'/mnt/mtorl'\nUser {os.getuid()} and group {os.getgid()} may not"), step():
        raise PermissionError(13, "Permission denied", "/mnt/mtorl")
    with pytest.raises(SystemExit, match=r"mtorl: .*'/mnt/mtorl'"), step():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/mnt/mtorl")
    with pytest.raises(OSError), step():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    full = "[Errno 28] No space left on device: '/b/x'"  # from the copy of a folder
    with pytest.raises(SystemExit, match=f"^{re.escape(f'mtorl: {full}')}$"), step():
        raise shutil.Error([("/a/x", "/b/x", full), ("/a/y", "/b/y", full)])


@pytest.mark.parametrize(("mask", "mode"), [(0, 0o640), (0o022, 0o644), (0o077, 0o600)])
def test_files_are_not_writable_by_others(mask: int, mode: int, umask: None, tmp_path: Path) -> None:
    os.umask(mask)
    with step():
        (tmp_path / "file").touch()
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert os.umask(mask) == mask


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(RUNS, str(tmp_path))
    monkeypatch.setenv(RUN_ID, "one")
    return tmp_path


def test_the_reason_for_a_failed_step_is_recorded_under_its_name(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, error in (("ingest", InputError("no rows")), ("train_challenger", KeyError("epochs"))):
        monkeypatch.setattr("sys.argv", ["kfp", "--function_to_execute", name])
        with pytest.raises((SystemExit, KeyError)), step():
            raise error
    assert notes() == {"ingest": "no rows", "train-challenger": "KeyError: 'epochs'"}


def test_nothing_is_recorded_outside_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNS, raising=False)
    note("why")
    assert notes() == {}


def test_an_unwritable_folder_does_not_hide_the_error(runs: Path) -> None:
    (runs / "notes").write_text("a file in the way")
    with pytest.raises(SystemExit, match="the reason"), step():
        raise InputError("the reason")


def test_notes_of_old_runs_are_removed(runs: Path) -> None:
    for number in range(40):
        folder = runs / "notes" / f"old-{number:02}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    note("why")
    assert notes() == {"step": "why"}
    kept = sorted(path.name for path in (runs / "notes").iterdir())
    assert kept == [*(f"old-{n}" for n in range(10, 40)), "one"]
