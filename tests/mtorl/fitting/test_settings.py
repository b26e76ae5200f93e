"""Settings of a training as people write them, and as a command line has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mtorl.fitting.settings import SettingsError, load_settings, parse_settings, read_settings, with_settings
from mtorl.network.training import TrainConfig


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
        ("learning_rate: 0.1", "unknown name 'learning_rate'; known: lr, weight_decay"),
        ("seed: 3", "unknown name 'seed'"),
        ("lr: fast", "lr: expected a number, got 'fast'"),
        ("lr: 1e-3", "lr: expected a number, got '1e-3'; YAML wants a point: 1.0e-3"),
        ("hidden: 64.5", "hidden: expected a whole number, got 64.5"),
        ("hidden: true", "hidden: expected a whole number, got True"),
        ("lr: .inf", "lr: expected a finite number, got inf"),
        ("- lr", "expected a mapping such as 'lr: 0.003'"),
        ("lr: [", "no YAML"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(text)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "lr must be a positive number"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"hidden": 30}, "heads must divide hidden, got 4 and 30"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_read(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        with_settings(TrainConfig(), settings)


def test_words_of_a_command_line() -> None:
    assert parse_settings(["lr=1e-3", "hidden=128", "mu=2"]) == {"lr": 0.001, "hidden": 128, "mu": 2.0}
    assert parse_settings([]) == {}
    for words, complaint in ((["lr"], "NAME=VALUE"), (["lr=1", "lr=2"], "twice"), (["hidden=wide"], "a whole number")):
        with pytest.raises(SettingsError, match=complaint):
            parse_settings(words)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.yaml: cannot read settings"):
        load_settings(tmp_path / "nothing.yaml")
    (tmp_path / "wrong.yaml").write_text("width: 3")
    with pytest.raises(SettingsError, match=r"wrong\.yaml: settings: unknown name 'width'"):
        load_settings(tmp_path / "wrong.yaml")
