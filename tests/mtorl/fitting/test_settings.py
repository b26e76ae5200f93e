import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mtorl.fitting.messages import UNKNOWN_SETTING
from mtorl.fitting.settings import (
    CHECKPOINT_DAYS,
    CURVE_DAYS,
    KeptFiles,
    SettingsError,
    load_settings,
    parse_settings,
    prune,
    read_settings,
    with_settings,
)
from mtorl.network.training import TrainConfig
from mtorl.runtime.messages import UNREADABLE
from tests.messages import assert_says, raises


@pytest.mark.parametrize(
    "text", ["lr: 0.01\nhidden: 32\n", '{"lr": 0.01, "hidden": 32}', "# found\nhidden: 32\nlr: 1.0e-2"]
)
def test_a_mapping_is_read_in_yaml_and_in_json(text: str) -> None:
    assert read_settings(text) == {"lr": 0.01, "hidden": 32} and read_settings("# nothing\n") == {}
    base = TrainConfig(epochs=3, seed=5)
    assert with_settings(base, read_settings(text)) == replace(base, lr=0.01, hidden=32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate: 0.1", "unknown name 'learning_rate'"),
        ("seed: 3", "unknown name 'seed'"),
        ("lr: fast", "lr: expected a number, got 'fast'"),
        ("lr: 1e-3", "lr: expected a number, got '1e-3'; write a point: 1.0e-3"),
        ("hidden: 64.5", "hidden: expected a whole number, got 64.5"),
        ("hidden: true", "hidden: expected a whole number, got True"),
        ("lr: .inf", "lr: expected a finite number, got inf"),
        ("- lr", "expected a mapping such as 'lr: 0.003'"),
        ("lr: [", "not YAML"),
    ],
)
def test_unreadable_settings_are_named(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(text)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "lr: expected a number above 0, got -1.0"),
        ({"dropout": 1.0}, "dropout: expected a number below 1, got 1.0"),
        ({"hidden": 30}, "heads must divide hidden, got 4 and 30"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        with_settings(TrainConfig(), settings)


def test_settings_of_a_command_line_are_parsed() -> None:
    assert parse_settings(["lr=1e-3", "hidden=128", "mu=2"]) == {"lr": 0.001, "hidden": 128, "mu": 2.0}
    assert parse_settings([]) == {}
    for words, complaint in ((["lr"], "NAME=VALUE"), (["lr=1", "lr=2"], "twice"), (["hidden=wide"], "a whole number")):
        with pytest.raises(SettingsError, match=complaint):
            parse_settings(words)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with raises(SettingsError, UNREADABLE, file=tmp_path / "nothing.yaml"):
        load_settings(tmp_path / "nothing.yaml")
    (tmp_path / "wrong.yaml").write_text("width: 3")
    with pytest.raises(SettingsError, match=r"wrong\.yaml") as caught:
        load_settings(tmp_path / "wrong.yaml")
    assert_says(caught.value, UNKNOWN_SETTING, name="'width'")


DAY = 86_400


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    return write_windows(tmp_path / "windows", "0123")


def write_windows(folder: Path, content: str, dataset: str = "name: mine") -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"content_sha256": content}))
    (folder / "dataset.yaml").write_text(dataset)
    return folder


def test_only_equal_trainings_share_file_names(windows: Path, tmp_path: Path) -> None:
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


def test_old_files_are_removed(tmp_path: Path) -> None:
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
        written("checkpoints/.a.pt.member-0.1f2e", CHECKPOINT_DAYS + 1),  # left by a process killed while writing
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
