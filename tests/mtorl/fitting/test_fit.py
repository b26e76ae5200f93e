"""Tests that a training saves its users and cost caps, and reports invalid input early."""

import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtorl.drift.reference import sample_users
from mtorl.drift.thresholds import Size
from mtorl.fitting import fit
from mtorl.fitting.fit import REFERENCE_TOUCHPOINTS, TrainingSummary, fit_challenger, fit_incumbent
from mtorl.log.messages import NO_COST
from mtorl.log.splits import are_among, split_of
from mtorl.network.training import TrainConfig
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.window.table import WindowTable
from tests.messages import raises
from tests.mtorl.window.windows_folder import SPEC, STEPS, write_windows_folder


@pytest.fixture
def windows(tmp_path: Path) -> str:
    write_windows_folder(tmp_path / "windows", STEPS)
    return str(tmp_path / "windows")


def test_the_incumbents_artifact_contains_its_users_and_highest_costs(windows: str, tmp_path: Path) -> None:
    artifact = fit_incumbent(windows, str(tmp_path / "incumbent"))
    users = STEPS["user_id"].unique()
    # Validation users count as training users, so only test users are new.
    assert are_among(users, artifact.training_users()).tolist() == (split_of(users) != "test").tolist()
    train = STEPS[split_of(STEPS["user_id"]) == "train"]
    highest = train.groupby("channel")["cost"].max()
    caps = artifact.model["cost_cap"]
    assert caps == {channel: highest.get(channel, highest.max()) for channel in artifact.spec.channels}
    assert artifact.model["default_channel"] == train["channel"].value_counts().index[0]
    assert (artifact.model["name"], artifact.model["kind"]) == ("incumbent", "channel-frequency")
    reference = artifact.reference()
    assert reference["user_id"].nunique() == train["user_id"].nunique()
    assert not set(reference["user_id"]) & set(train["user_id"]), "an artifact contains no user id"
    assert len(reference) == pytest.approx(REFERENCE_TOUCHPOINTS * train["user_id"].nunique(), rel=0.3)
    thresholds = artifact.drift_thresholds()
    assert thresholds is not None
    context = {column.name: column.kind for column in artifact.spec.context}
    assert thresholds.at(Size(100, 200), context) is not None


def test_the_reference_is_bounded_and_a_small_log_has_no_thresholds(
    windows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit.drift_reference(windows, SPEC)
    monkeypatch.setattr(fit, "sample_users", partial(sample_users, rows=60))
    reference = fit.drift_reference(windows, SPEC)
    assert 60 <= len(reference) < 60 + whole.groupby("user_id").size().max()
    pd.testing.assert_frame_equal(
        reference.sort_values("user_id", kind="stable", ignore_index=True),
        sample_users(whole, 60).sort_values("user_id", kind="stable", ignore_index=True),
    )
    assert fit.drift_thresholds(reference, SPEC) is None, "too few users for a held-out sample"


def test_an_invalid_budget_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="budget_share"):
        fit_challenger(str(tmp_path), str(tmp_path / "out"), TrainConfig(), 0.0)


def test_a_log_without_cost_is_refused_before_training(tmp_path: Path) -> None:
    write_windows_folder(tmp_path / "windows", STEPS.assign(cost=0.0), shards=1)
    with raises(InputError, NO_COST, column="cost"):
        fit_challenger(str(tmp_path / "windows"), str(tmp_path / "out"), TrainConfig(epochs=1, device="cpu"), 0.5)


def test_failing_trees_fail_the_training(windows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no trees today")

    monkeypatch.setattr("mtorl.fitting.fit.lightgbm.fit", fail)
    with pytest.raises(ValueError, match="no trees today"):
        fit_challenger(windows, str(tmp_path / "challenger"), TrainConfig(epochs=1, hidden=8, device="cpu"), 0.5)
    assert not (tmp_path / "challenger").exists()


def test_an_error_does_not_wait_for_the_trees(windows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    grown = threading.Event()

    def grow(*_: object) -> None:
        over.wait(120)
        grown.set()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtorl.fitting.fit.lightgbm.fit", grow)
    monkeypatch.setattr(fit, "drift_thresholds", fail)
    with pytest.raises(KeyboardInterrupt):
        fit_challenger(windows, str(tmp_path / "challenger"), TrainConfig(epochs=1, hidden=8, device="cpu"), 0.5)
    assert not grown.is_set()
    over.set()


def test_the_challenger_reports_the_distance_of_user_states(
    windows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[float, float]] = []
    config = TrainConfig(epochs=1, hidden=8, device="cpu")
    with monkeypatch.context() as two_processors:
        two_processors.setattr("mtorl.fitting.fit.processors", lambda: 2)
        with progress.listen(lambda done, total, note: reports.append((done, total))):
            artifact = fit_challenger(windows, str(tmp_path / "challenger"), config, 0.5)
    assert artifact is not None
    assert reports[:2] == [(1, 2), (2, 2)], "one report for each of the two networks, which train at the same time"
    table = WindowTable.load(windows, "train", TrainingSummary.of(windows).first_shard)
    _, distance_B = artifact.forecast_with_state(table.windows("train"))
    assert distance_B is not None and np.sqrt((distance_B**2).mean()) == pytest.approx(1.0, abs=1e-3)
    assert fit_incumbent(windows, str(tmp_path / "incumbent")).forecast_with_state(table.windows("train"))[1] is None
