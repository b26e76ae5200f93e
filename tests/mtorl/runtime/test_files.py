import errno
import os
from pathlib import Path

import pytest

from mtorl.runtime import files
from mtorl.runtime.files import naming_full_disk, remove, replacing, sha256_of


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_the_old_content_and_success_replaces_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.parquet"
    path.write_text("old") if kind == "file" else (path / "old").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="disk full"), replacing(path) as unfinished:
        unfinished.write_text("half") if kind == "file" else unfinished.mkdir()
        raise RuntimeError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]
    assert path.read_text() == "old" if kind == "file" else (path / "old").is_dir()
    with replacing(path) as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


FULL = rf"{os.strerror(errno.ENOSPC)}: '.*/out'"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
        RuntimeError('IO Error: Could not write file "x": No space left on device'),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=["system", "arrow", "duckdb", "quota"],
)
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError, match=FULL) as raised, replacing(tmp_path / "out"):
        raise error
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_on_a_full_disk_the_innermost_path_is_named(tmp_path: Path) -> None:
    full = RuntimeError("No space left on device")
    with pytest.raises(OSError, match=FULL), naming_full_disk(Path("/elsewhere")), replacing(tmp_path / "out"):
        raise full
    with pytest.raises(OSError, match="/elsewhere"), naming_full_disk(Path("/elsewhere")):
        raise full
    with pytest.raises(RuntimeError, match="another"), naming_full_disk(Path("/elsewhere")):
        raise RuntimeError("another")


@pytest.mark.parametrize("there", [False, True])
def test_old_leftovers_of_a_process_are_removed(tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "out", tmp_path / ".output.0123abcd"
    left, kept = tmp_path / ".out.0123abcd", tmp_path / ".out.4567abcd.old"
    left.mkdir()
    for file in (left / "part", kept, other, *[path] * there):
        file.write_text("some")
    for old in (left, kept, other):
        # A copy may keep the old time of its original.
        os.utime(old, (0, 0))
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert left.exists(), "another process may still be writing"
    if not there:
        path.unlink()
    monkeypatch.setattr(files, "_ABANDONED_SECONDS", -1.0)
    with replacing(path) as unfinished:
        unfinished.write_text("newer")
    assert not left.exists() and other.exists()
    assert kept.exists() == (not there), "the only copy of the old content is kept"


@pytest.mark.parametrize("durable", [False, True])
def test_missing_folders_are_created_and_a_folder_replaces_a_folder(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "out"
    for name in ("first", "second"):
        with replacing(path, durable) as unfinished:
            (unfinished / name).mkdir(parents=True)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert [p.name for p in path.parent.iterdir()] == ["out"]


def test_removing_a_missing_path_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")


def test_a_folder_created_by_another_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename, renamed = tmp_path / "out", os.rename, list[Path]()

    def slow_rename(source: Path, target: Path) -> None:
        renamed.append(source)
        if len(renamed) == 2:  # the old folder was renamed, and the new folder is not in its place yet
            (path / "another's").mkdir(parents=True)
        rename(source, target)

    (path / "old").mkdir(parents=True)
    with replacing(path) as unfinished:
        (unfinished / "new").mkdir(parents=True)
        monkeypatch.setattr(os, "rename", slow_rename)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("target", ["a file", "a folder", "nothing"])
def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path, kind: str, target: str) -> None:
    (tmp_path / "a file").write_text("kept")
    (tmp_path / "a folder" / "kept").mkdir(parents=True)
    path = tmp_path / "link"
    path.symlink_to(target)
    with replacing(path) as unfinished:
        unfinished.write_text("new") if kind == "file" else unfinished.mkdir()
    assert not path.is_symlink() and path.is_dir() == (kind == "folder")
    assert (tmp_path / "a file").read_text() == "kept" and (tmp_path / "a folder" / "kept").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a file", "a folder", "link"]


def test_written_files_are_readable_by_other_users(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "folder") as unfinished:
            unfinished.mkdir()
            (unfinished / "file").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "reports"
    path.write_text("kept") if kind == "file" else (path / "kept").mkdir(parents=True)
    with pytest.raises((IsADirectoryError, NotADirectoryError), match="reports"), replacing(path) as unfinished:
        unfinished.mkdir() if kind == "file" else unfinished.write_text("new")
    assert path.read_text() == "kept" if kind == "file" else (path / "kept").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["reports"]
