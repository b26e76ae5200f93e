"""The second night: what the first model has decided is in the next training, step by step."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model

from components.build_features.component import build_features
from components.compact.component import compact
from components.evaluate.component import evaluate
from components.fingerprint.component import fingerprint
from components.fit_incumbent.component import fit_incumbent
from components.ingest.component import ingest
from components.train_challenger.component import train_challenger
from mtorl.artifact.artifact import load
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import LOG_FILE
from tests.components.artifacts import CODE, ROUNDS, USERS, Output
from tests.features.collect.decision_logs import START, add, decision, outcome, write

pytestmark = pytest.mark.integration
SOURCE = "simulator"


def test_a_step_that_is_repeated_reads_what_it_has_read(log: Artifact, output: Output, tmp_path: Path) -> None:
    """Decisions and outcomes that were uploaded since are left to the next night."""
    lake = write(tmp_path / "lake", [of_market("a", 0)], [outcome("a-cost", "a", value=0.5)])
    decisions, content = compact.python_func(str(lake), SOURCE), fingerprint.python_func(SOURCE, SOURCE, "")[0]
    now = (datetime.now(UTC) + timedelta(seconds=1) - START).total_seconds() / 60
    read = []
    for time in ("first", "again"):
        made, quarantine = output(Dataset, time), output(Artifact, f"quarantine-{time}")
        ingest.python_func(
            SOURCE, SOURCE, "fail", USERS, 7, content, str(lake), decisions, 0, "", "", CODE, made, quarantine
        )
        read.append(pd.read_parquet(Path(made.path) / LOG_FILE))
        add(lake, [of_market("b", now)], [outcome("late", "a", value=0.25, minutes=now), outcome("b-cost", "b")])
        compact.python_func(str(lake), SOURCE)
    assert read[0]["collected"].sum() == 1
    pd.testing.assert_frame_equal(*read)


def of_market(name: str, minutes: float) -> dict[str, Any]:
    """A decision of the simulator's data set."""
    known = {"age_group": "30-39", "tenure_days": 3.0, "region": "north"}
    context = {"hour": 1.0, "device": "mobile", "placement": "feed"}
    return decision(name, minutes, context=context, static=known)


@pytest.mark.long
def test_the_second_night_learns_from_the_first(
    first_night: Path, log: Artifact, challenger: Artifact, output: Output, tmp_path: Path
) -> None:
    lake = str(first_night / "lake")
    decisions = compact.python_func(lake, SOURCE)
    content = fingerprint.python_func(SOURCE, SOURCE, "")[0]
    second, quarantine = output(Dataset, "log"), output(Artifact, "quarantine")
    ingest.python_func(SOURCE, SOURCE, "fail", USERS, 7, content, lake, decisions, 0, "", "", CODE, second, quarantine)

    before, after = (pd.read_parquet(Path(one.path) / LOG_FILE) for one in (log, second))
    opportunities = pd.read_parquet(Path(second.path) / OPPORTUNITIES_FILE)
    noted = json.loads((Path(second.path) / "ingest.json").read_text())
    assert len(after) == len(before) + noted["collected"]["exposures"] == noted["rows"]
    assert noted["collected"]["decisions"] == USERS * ROUNDS
    assert len(opportunities) == noted["collected"]["opportunities"] > 0.9 * USERS * ROUNDS
    assert 0.2 < opportunities["exposed"].mean() < 0.9

    windows = output(Dataset, "windows")
    build_features.python_func(second, SOURCE, "", "", CODE, windows, output(Artifact, "definitions"))
    incumbent, newest = output(Model, "incumbent"), output(Model, "challenger")
    fit_incumbent.python_func(windows, challenger.path, "", CODE, incumbent)
    metrics = output(Metrics, "metrics")
    train_challenger.python_func(windows, 1, 7, 0.6, "", CODE, str(tmp_path), "", newest, metrics)
    model = load(Path(newest.path))
    assert json.loads((Path(newest.path) / "metrics.json").read_text())["priced_on"] == "opportunities"
    asked = opportunities[opportunities["split"] == "train"].groupby("user_id")["hour"].agg(set)
    for hours in model.reference().groupby("user_id")["hour"].agg(set):
        assert any(hours <= hours_asked for hours_asked in asked), "drift is measured against what policies were asked"

    evaluation = output(Artifact, "evaluation")
    evaluate.python_func(windows, newest, incumbent, 0.6, 7, CODE, evaluation, output(Metrics, "metrics"))
    figures = json.loads(Path(evaluation.path).read_text())
    assert (figures["valued_on"], figures["incumbent_is"]) == ("opportunities", "own_model")
    value = figures["value"]
    assert value["rows"] == (opportunities["split"] == "test").sum()
    assert value["impossible"] == {"challenger": 0.0, "incumbent": 0.0}, "exploration can make any exposure"
    for arm in ("challenger", "incumbent"):
        low, high = value["mean_weight_ci"][arm]
        assert low < 1.1 and high > 0.9
