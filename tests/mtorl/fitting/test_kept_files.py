"""Names of what a training keeps, and how long it is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mtorl.fitting.kept_files import CHECKPOINT_DAYS, CURVE_DAYS, KeptFiles, prune
from mtorl.network.training import TrainConfig

DAY = 86_400


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    return write_windows(tmp_path / "windows", "0123")


def write_windows(folder: Path, content: str, dataset: str = "name: mine") -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"content_sha256": content}))
    (folder / "dataset.yaml").write_text(dataset)
    return folder


def test_equal_trainings_have_equal_names_and_no_others(windows: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3)
    same = write_windows(tmp_path / "of another run", "0123")
    files = KeptFiles.of("/mnt", str(windows), config, 0.5, "1.0")
    assert KeptFiles.of("/mnt", str(same), config, 0.5, "1.0") == files
    others = [
        KeptFiles.of("/mnt", str(write_windows(tmp_path / "data", "4567")), config, 0.5, "1.0"),
        KeptFiles.of("/mnt", str(write_windows(tmp_path / "spec", "0123", "name: yours")), config, 0.5, "1.0"),
        KeptFiles.of("/mnt", str(windows), TrainConfig(epochs=4), 0.5, "1.0"),
        KeptFiles.of("/mnt", str(windows), config, 0.6, "1.0"),
        KeptFiles.of("/mnt", str(windows), config, 0.5, "1.1"),
        KeptFiles.of("/mnt", str(windows), config, 0.5, "1.0", processes=2),
    ]
    for name in ("checkpoint", "tensorboard", "shared"):
        assert len({getattr(one, name) for one in (files, *others)}) == 7
    assert files.checkpoint.startswith("/mnt/checkpoints/") and files.tensorboard.startswith("/mnt/tensorboard/")


def test_without_a_volume_nothing_is_kept(windows: Path) -> None:
    assert KeptFiles.of("", str(windows), TrainConfig(), 0.5, "1.0") == KeptFiles("", "", "")
    assert prune("") == []


def test_what_nobody_has_written_for_long_is_removed(tmp_path: Path) -> None:
    now = 1_000 * DAY

    def written(path: str, days_ago: float) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        for entry in (file, file.parent):
            os.utime(entry, (now - days_ago * DAY,) * 2)
        return file

    old = [
        written("checkpoints/a.pt.member-0", CHECKPOINT_DAYS + 1),
        written("checkpoints/.a.pt.member-0.1f2e", CHECKPOINT_DAYS + 1),  # of a process that was killed while it wrote
        written("shared/a/task.json", CHECKPOINT_DAYS + 1).parent,
        written("tensorboard/a/member-0", CURVE_DAYS + 1).parent,
    ]
    new = [
        written("shared/b/task.json", CHECKPOINT_DAYS - 1),
        written("checkpoints/b.pt.member-0", CHECKPOINT_DAYS - 1),
        written("tensorboard/b/member-0", 1),
    ]
    assert sorted(prune(str(tmp_path), now)) == sorted(old)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)
