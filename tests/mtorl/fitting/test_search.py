"""Tests that a search reads no test user, improves on the default, and can be continued."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mtorl.fitting import messages
from mtorl.fitting import search as search_module
from mtorl.fitting.fit import TrainingSummary
from mtorl.fitting.search import WEIGHTS, OnEpoch, SearchConfig, SearchError, SearchReport, Trials, Tried, search
from mtorl.fitting.search_space import SPACE, defaults, table
from mtorl.fitting.settings import load_settings
from mtorl.log.splits import split_of
from mtorl.network.training import TrainConfig, TrainingDiverged, train
from mtorl.runtime.messages import BUSY, START_ANEW
from tests.messages import raises
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder
from tests.repository import ROOT


@pytest.fixture
def windows(tmp_path: Path) -> str:
    return written(tmp_path / "windows", STEPS)


def written(folder: Path, rows: pd.DataFrame) -> str:
    write_windows_folder(folder, rows)
    return str(folder)


def poisoned(split: str) -> pd.DataFrame:
    rows = STEPS.copy()
    theirs = split_of(rows["user_id"]) == split
    assert theirs.any()
    rows.loc[theirs, "channel"] = "video"
    rows.loc[theirs, "cost"] *= 1000.0
    rows.loc[theirs, "click"] = 1 - rows.loc[theirs, "click"]
    rows.loc[theirs, "hour"] = 1e6
    return rows


def without_times(report: SearchReport) -> list[Tried]:
    return [replace(tried, seconds=0.0) for tried in report.trials]


SHORT = SearchConfig(trials=2, epochs=2, seed=3)


@pytest.mark.integration
def test_no_test_user_is_read(windows: str, tmp_path: Path) -> None:
    clean = search(windows, str(tmp_path / "clean"), SHORT)
    same = search(written(tmp_path / "test", poisoned("test")), str(tmp_path / "same"), SHORT)
    assert without_times(same) == without_times(clean)
    one, other = ((tmp_path / name / search_module.SETTINGS_FILE).read_text() for name in ("same", "clean"))
    assert one == other
    # Check that the comparison can fail: these users' wrong values change the result.
    for split in ("val", "train"):
        other = search(written(tmp_path / split, poisoned(split)), str(tmp_path / f"other-{split}"), SHORT)
        assert [one.loss for one in other.trials] != [one.loss for one in clean.trials]


@pytest.mark.integration
def test_the_objective_has_the_default_weights_in_every_trial(windows: str) -> None:
    trials, seen, rows = Trials(windows), [], []
    best = trials.run(TrainConfig(epochs=2, mu=0.1, nu=3.0), lambda epoch, loss: seen.append((epoch, loss)))
    assert [epoch for epoch, _ in seen] == [1, 2] and seen[-1][1] == best, "the loss of the weights that are kept"
    train(trials.data, TrainConfig(epochs=2, mu=0.1, nu=3.0), rows.append)
    kept = min(rows, key=lambda row: row["val_loss"])
    assert best == pytest.approx(sum(weight * kept[f"val_{name}"] for name, weight in WEIGHTS.items()))
    assert {"action": 1.0, "reward": TrainConfig().mu, "cost": TrainConfig().nu} == WEIGHTS


def test_windows_are_encoded_as_in_training(windows: str) -> None:
    trained = TrainingSummary.of(windows).encoder
    assert Trials(windows).data.train.encoder.to_dict() == trained.to_dict()  # type: ignore[attr-defined]


# The tests below replace each training by a formula to save time.


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Replace each training by a formula with its minimum at lr 0.01 and dropout 0.1."""
    tried: list[TrainConfig] = []

    def run(self: Trials, config: TrainConfig, on_epoch: OnEpoch) -> float:
        tried.append(config)
        loss = 2 + math.log10(config.lr / 0.01) ** 2 + (config.dropout - 0.1) ** 2
        for epoch in range(1, config.epochs + 1):
            on_epoch(epoch, loss + 1 / epoch)
        return loss

    monkeypatch.setattr(Trials, "run", run)
    return tried


def test_the_first_trial_is_default_the_best_improves(windows: str, tmp_path: Path, formula: list[TrainConfig]) -> None:
    report = search(windows, str(tmp_path / "best"), SearchConfig(trials=25, epochs=4))
    assert formula[0] == TrainConfig(epochs=4, seed=7) and report.trials[0].settings == defaults()
    assert report.default_loss is not None and report.best.loss is not None
    assert report.best.loss < report.default_loss
    assert load_settings(tmp_path / "best" / search_module.SETTINGS_FILE) == report.best.settings
    assert max(report.importance, key=lambda name: report.importance[name]) == "lr"
    assert {one.ended for one in report.trials} == {"complete", "early"}
    assert all(one.epochs == 4 for one in report.trials if one.ended == "complete")
    assert all(2 <= one.epochs < 4 for one in report.trials if one.ended == "early")
    assert all(tried.seed == 7 for tried in formula), "all settings use the same random numbers"


def test_a_stopped_search_continues_with_equal_results(
    windows: str, tmp_path: Path, formula: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig(trials=14, epochs=3, seed=5)
    whole = search(windows, str(tmp_path / "whole"), config)
    run, kill_at = Trials.run, {0, 10}

    def killed(self: Trials, settings: TrainConfig, on_epoch: OnEpoch) -> float:
        if len(formula) - before in kill_at:
            kill_at.remove(len(formula) - before)
            raise KeyboardInterrupt
        return run(self, settings, on_epoch)

    before = len(formula)
    monkeypatch.setattr(Trials, "run", killed)
    for trials in (14, 6, 14, 14):
        try:
            parts = search(windows, str(tmp_path / "parts"), replace(config, trials=trials))
        except KeyboardInterrupt:
            continue
    assert not kill_at
    assert without_times(parts) == without_times(whole)
    tried = len(formula)
    assert without_times(search(windows, str(tmp_path / "parts"), config)) == without_times(whole)
    assert len(formula) == tried, "a finished search tries nothing"


def test_no_trial_begins_after_the_timeout(windows: str, tmp_path: Path, formula: list[TrainConfig]) -> None:
    config = SearchConfig(trials=5, timeout=1e-9, epochs=1)
    assert len(search(windows, str(tmp_path / "best"), config).trials) == 1
    assert len(search(windows, str(tmp_path / "best"), replace(config, timeout=0.0)).trials) == 5


def test_a_diverged_trial_does_not_stop_the_search(
    windows: str, tmp_path: Path, formula: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trials.run

    def diverging(self: Trials, config: TrainConfig, on_epoch: OnEpoch) -> float:
        if len(formula) % 2 == 0:
            formula.append(config)
            raise TrainingDiverged("epoch 1: reward is nan")
        return run(self, config, on_epoch)

    monkeypatch.setattr(Trials, "run", diverging)
    report = search(windows, str(tmp_path / "best"), SearchConfig(trials=6, epochs=1))
    assert [one.ended for one in report.trials] == ["diverged", "complete"] * 3
    assert report.default_loss is None and report.best.ended == "complete"
    with raises(SearchError, messages.NO_TRIAL):
        search(windows, str(tmp_path / "none"), SearchConfig(trials=1, epochs=1))


def test_incomparable_trials_are_not_mixed(
    windows: str, tmp_path: Path, formula: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = str(tmp_path / "best"), SearchConfig(trials=1, epochs=2)
    search(windows, out, config)
    for other, what in ((replace(config, epochs=3), "number of epochs"), (replace(config, seed=8), "seed")):
        with raises(SearchError, messages.OTHER_SEARCH, folder=tmp_path / "best", what=[what]):
            search(windows, out, other)
    changed = written(tmp_path / "changed", poisoned("val"))
    with raises(SearchError, messages.OTHER_SEARCH, what=["content of the windows"]):
        search(changed, out, config)
    monkeypatch.setattr(search_module, "SPACE", (*SPACE[1:], replace(SPACE[0], high=0.5)))
    with raises(SearchError, messages.OTHER_SEARCH, what=["space of settings"]):
        search(windows, out, config)


def test_a_busy_folder_or_invalid_file_is_refused(
    windows: str, tmp_path: Path, formula: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "best"
    run = Trials.run

    def meanwhile(self: Trials, config: TrainConfig, on_epoch: OnEpoch) -> float:
        with raises(SearchError, BUSY, folder=out):
            search(windows, str(out), SearchConfig(trials=1, epochs=1))
        return run(self, config, on_epoch)

    monkeypatch.setattr(Trials, "run", meanwhile)
    search(windows, str(out), SearchConfig(trials=1, epochs=1))
    (tmp_path / "rubbish").mkdir()
    (tmp_path / "rubbish" / "trials.db").write_bytes(b"no database " * 100)
    with raises(SearchError, START_ANEW, file=tmp_path / "rubbish" / "trials.db"):
        search(windows, str(tmp_path / "rubbish"), SearchConfig(trials=1))


def test_the_space_contains_the_defaults_and_valid_settings() -> None:
    assert {p.name: p.default for p in SPACE} == {name: getattr(TrainConfig(), name) for name in defaults()}
    for parameter in SPACE:
        ends = parameter.choices or (parameter.low, parameter.high)
        assert min(ends) <= parameter.default <= max(ends), "the default is the first trial"
        for end in ends:
            TrainConfig(**{parameter.name: int(end) if parameter.whole else end})  # type: ignore[arg-type]


def test_the_manual_has_the_table_of_the_space() -> None:
    assert table() in (ROOT / "docs" / "training.md").read_text()
