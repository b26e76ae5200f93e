"""The second night: what the first model has decided is in the next training, step by step."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model

from components.build_features.component import build_features
from components.collect.component import collect
from components.evaluate.component import evaluate
from components.fingerprint.component import fingerprint
from components.fit_incumbent.component import fit_incumbent
from components.ingest.component import ingest
from components.train_challenger.component import train_challenger
from mtorl.artifact.artifact import load
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import LOG_FILE
from tests.components.artifacts import CODE, ROUNDS, USERS, Output

pytestmark = pytest.mark.integration
SOURCE = "simulator"


def test_before_anything_serves_there_is_nothing_to_collect(tmp_path: Path) -> None:
    assert collect.python_func("", "", SOURCE) == collect.python_func("", str(tmp_path / "collected"), SOURCE) == ""
    assert collect.python_func(str(tmp_path / "decision_log"), str(tmp_path / "collected"), SOURCE) == ""
    assert not (tmp_path / "collected").exists()


@pytest.mark.long
def test_the_digest_changes_with_what_was_decided_and_with_nothing_else(first_night: Path, tmp_path: Path) -> None:
    log, store = str(first_night / "log"), str(tmp_path / "collected")
    once = collect.python_func(log, store, SOURCE)
    assert len(once) == 64 and collect.python_func(log, store, SOURCE) == once == collect.python_func("", store, SOURCE)
    file = first_night / "log" / "router-0" / "outcomes.parquet"
    (tmp_path / "log").mkdir()
    pd.read_parquet(file).head(1).assign(event_id="late").to_parquet(tmp_path / "log" / "outcomes.parquet")
    pd.read_parquet(file.with_name("decisions.parquet")).head(0).to_parquet(tmp_path / "log" / "decisions.parquet")
    assert collect.python_func(str(tmp_path / "log"), store, SOURCE) not in ("", once)


@pytest.mark.long
def test_the_second_night_learns_from_the_first(
    first_night: Path, log: Artifact, output: Output, tmp_path: Path
) -> None:
    collected = str(first_night / "collected")
    decisions = collect.python_func(str(first_night / "log"), collected, SOURCE)
    content = fingerprint.python_func(SOURCE, SOURCE, "")[0]
    second, quarantine = output(Dataset, "log"), output(Artifact, "quarantine")
    ingest.python_func(
        SOURCE, SOURCE, "fail", USERS, 7, content, collected, decisions, 0, "", "", CODE, second, quarantine
    )

    before, after = (pd.read_parquet(Path(one.path) / LOG_FILE) for one in (log, second))
    opportunities = pd.read_parquet(Path(second.path) / OPPORTUNITIES_FILE)
    noted = json.loads((Path(second.path) / "ingest.json").read_text())
    assert len(after) == len(before) + noted["collected"]["exposures"] == noted["rows"]
    assert noted["collected"]["decisions"] == USERS * ROUNDS
    assert len(opportunities) == noted["collected"]["opportunities"] > 0.9 * USERS * ROUNDS
    assert 0.2 < opportunities["exposed"].mean() < 0.9

    windows = output(Dataset, "windows")
    build_features.python_func(second, SOURCE, "", "", CODE, windows, output(Artifact, "definitions"))
    incumbent, challenger = output(Model, "incumbent"), output(Model, "challenger")
    fit_incumbent.python_func(windows, "", "", CODE, incumbent)
    metrics = output(Metrics, "metrics")
    train_challenger.python_func(windows, 1, 7, 0.6, "", CODE, str(tmp_path), "", challenger, metrics)
    model = load(Path(challenger.path))
    assert json.loads((Path(challenger.path) / "metrics.json").read_text())["priced_on"] == "opportunities"
    asked = opportunities[opportunities["split"] == "train"].groupby("user_id")["hour"].agg(set)
    for hours in model.reference().groupby("user_id")["hour"].agg(set):
        assert any(hours <= hours_asked for hours_asked in asked), "drift is measured against what policies were asked"

    evaluation = output(Artifact, "evaluation")
    evaluate.python_func(windows, challenger, incumbent, 0.6, 7, CODE, evaluation, output(Metrics, "metrics"))
    figures = json.loads(Path(evaluation.path).read_text())
    assert figures["valued_on"] == "opportunities"
    value = figures["value"]
    assert value["rows"] == (opportunities["split"] == "test").sum()
    assert value["impossible"] == {"challenger": 0.0, "incumbent": 0.0}, "exploration can make any exposure"
    for arm in ("challenger", "incumbent"):
        low, high = value["mean_weight_ci"][arm]
        assert low < 1.1 and high > 0.9
