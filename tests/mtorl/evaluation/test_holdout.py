"""Tests of evaluating an artifact on a log, without the users of its training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mtorl.artifact.artifact import Artifact
from mtorl.baselines.lightgbm import stored_in
from mtorl.evaluation import messages
from mtorl.evaluation.holdout import KnownUsersError, evaluate_artifact
from mtorl.fitting.fit import fit_challenger
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import split_of
from mtorl.network.training import TrainConfig
from mtorl.runtime.errors import InputError
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from tests.messages import raises
from tests.mtorl.window.windows_folder import write_windows_folder

SPEC = DatasetSpec.load("simulator")
ALWAYS = "model: its channels, always exposing"


def rows(users: int, seed: int, prefix: str = "") -> pd.DataFrame:
    log = Simulator(SimulatorConfig(users=users, seed=seed)).log()
    log["user_id"] = prefix + log["user_id"]
    log["step"] = log.groupby("user_id").cumcount()
    return log.sort_values(["user_id", "timestamp"], kind="stable")


def table(log: pd.DataFrame) -> WindowTable:
    return WindowTable(pa.Table.from_pandas(log, preserve_index=False), log.assign(split="none"), SPEC, "print")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Artifact, pd.DataFrame]:
    folder: Path = tmp_path_factory.mktemp("holdout")
    log = rows(400, 1)
    write_windows_folder(folder / "windows", log, shards=2)
    SPEC.save(folder / "windows" / "dataset.yaml")
    config = TrainConfig(epochs=2, hidden=16, device="cpu")
    artifact = fit_challenger(str(folder / "windows"), str(folder / "artifact"), config, 0.5)
    assert artifact is not None
    return artifact, log


def test_training_users_are_refused_or_left_out(made):
    artifact, log = made
    split = split_of(log["user_id"])
    both = table(log)
    with raises(KnownUsersError, messages.KNOWN_USERS, users=400):
        evaluate_artifact(artifact, both, stored_in(artifact), seed=0, only_new=False)
    found = evaluate_artifact(artifact, both, stored_in(artifact), seed=0, only_new=True)
    # Training used validation users to decide when to stop.
    tested = log[split == "test"]
    assert found["data"]["rows"] == len(tested)
    assert found["data"]["left_out_users"] == log.loc[split != "test", "user_id"].nunique()
    alone = evaluate_artifact(artifact, table(tested), stored_in(artifact), seed=0, only_new=False)
    assert alone["compared"] == found["compared"]
    with raises(KnownUsersError, messages.ALL_KNOWN):
        evaluate_artifact(artifact, table(log[split == "train"]), stored_in(artifact), seed=0, only_new=True)


def test_figures_are_json_and_compared_with_the_yardstick(made):
    artifact, _ = made
    found = evaluate_artifact(artifact, table(rows(300, 2, "new-")), stored_in(artifact), seed=0, only_new=False)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["compared"]["metrics"]) == {"model", "lightgbm"}
    assert found["data"]["left_out_users"] == 0 and found["data"]["users"] == 300
    value = found["value"][ALWAYS]
    assert value["not_evaluable"] is None  # the log contains propensities
    low, high = value["importance_weights"]["mean_weight_ci"]
    assert low < 1 < high
    # The rule sometimes shows no ad, so it gains less than a policy that always does.
    assert found["value"]["model: decision rule"]["estimates"]["snips"]["value"] < value["estimates"]["snips"]["value"]
    assert found["spend"]["lightgbm"] == pytest.approx(found["spend"]["model"], rel=0.02), "each has its own price"
    worth = {name.partition(", always")[0]: one["estimates"]["dr"]["value"] for name, one in found["value"].items()}
    best, constant = worth["model: best expected gain"], worth["best constant channel"]
    assert (found["target"]["constant"], found["target"]["difference"]) == pytest.approx((constant, best - constant))


def test_missing_propensities_are_estimated_from_other_users(made):
    artifact, _ = made
    estimated = replace(artifact, spec=artifact.spec.replace(propensity="channel-frequency"))
    log = rows(300, 3, "new-")
    found = evaluate_artifact(
        estimated, table(log.assign(propensity=np.nan)), stored_in(estimated), seed=0, only_new=False
    )
    assert np.isfinite(found["value"][ALWAYS]["importance_weights"]["mean_weight"])


def test_a_log_of_another_data_set_is_refused(made):
    artifact, _ = made
    for changes in ({"channels": SPEC.channels[::-1]}, {"reward": SPEC.reward.replace(cost_weight=0.3)}):
        other = replace(table(rows(50, 3, "new-")), spec=SPEC.replace(**changes))
        with raises(InputError, messages.OTHER_DATA_SET, field=next(iter(changes))):
            evaluate_artifact(artifact, other, stored_in(artifact), seed=0, only_new=False)
