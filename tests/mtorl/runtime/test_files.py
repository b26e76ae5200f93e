"""Files and folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtorl.runtime.files import remove, replacing, sha256_of


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_the_old_content_and_success_replaces_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    path.write_text("old") if kind == "file" else (path / "old").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="disk full"), replacing(path) as unfinished:
        unfinished.write_text("half") if kind == "file" else unfinished.mkdir()
        raise RuntimeError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "old" if kind == "file" else (path / "old").is_dir()
    with replacing(path) as unfinished:
        unfinished.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("durable", [False, True])
def test_missing_folders_are_made_and_a_folder_replaces_a_folder(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "out"
    for name in ("first", "second"):
        with replacing(path, durable) as unfinished:
            (unfinished / name).mkdir(parents=True)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert [p.name for p in path.parent.iterdir()] == ["out"]


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")
