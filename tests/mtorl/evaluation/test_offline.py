"""Tests that the offline evaluation samples large logs and reads small ones whole."""

import json
from typing import Any

import numpy as np
import pytest

from mtorl.evaluation import offline
from mtorl.evaluation.offline import evaluate_offline, lost_channel
from mtorl.fitting.fit import fit_incumbent
from mtorl.window import on_demand
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("offline")
    write_windows_folder(folder / "windows", STEPS, shards=8)
    fit_incumbent(str(folder / "windows"), str(folder / "model"))
    return str(folder / "windows"), str(folder / "model")


def evaluated(made: tuple[str, str]) -> dict[str, Any]:
    windows, model = made
    return evaluate_offline(windows, model, model, 0.6, 7)


def test_chunks_change_no_figure(made: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluated(made)
    assert whole["test_share"] == 1.0
    monkeypatch.setattr(on_demand, "CHUNK", 11)
    assert json.dumps(evaluated(made)) == json.dumps(whole)


def test_a_large_log_is_evaluated_on_some_test_users(made: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluated(made)
    monkeypatch.setattr(offline, "MOST_HELD_OUT", whole["test_rows"] // 3)
    some = evaluated(made)
    assert 0 < some["test_rows"] < whole["test_rows"] and 0.2 < some["test_share"] < 0.5
    low, high = some["value"]["difference_ci"]
    assert low <= 0.0 <= high, "both policies are one model"


@pytest.mark.parametrize(("expected", "lost"), [(0.4, False), (0.21, False), (0.19, True), (0.0001, True)])
def test_a_channel_that_the_training_log_lost_is_found(expected: float, lost: bool) -> None:
    channel_B = np.repeat([0, 1], [600, 400])
    logits_BC = np.log(np.tile([1 - expected, expected], (1000, 1)))
    assert lost_channel(logits_BC, channel_B) == ((1, pytest.approx(expected), 0.4) if lost else None)
    few = slice(0, 690)
    assert lost_channel(logits_BC[few], channel_B[few]) is None, "too few touchpoints to be sure"
