"""Tests the way from a log in another system's format to a served decision."""

import asyncio
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from mtorl.fitting.fit import fit_challenger
from mtorl.log.dataset import DatasetSpec
from mtorl.network.training import TrainConfig
from mtorl.window.window import instance_from_history
from serving.predictor.predictor import Predictor
from tests.examples import foreign_logs

pytestmark = [pytest.mark.integration, pytest.mark.long]

LOGS = {  # questions about each log, and the answers
    "bandit.csv": (foreign_logs.bandit, ["propensity", "user_id"], ["user_id=Unnamed: 0", "channel=item_id"]),
    "ads.csv": (foreign_logs.ads_export, [], []),
    "events.jsonl": (foreign_logs.nested_events, [], []),
}


def mtorl(*arguments: object, code: int = 0) -> str:
    answer = CliRunner().invoke(app, [*map(str, arguments)])
    assert answer.exit_code == code, answer.output
    return answer.output


@pytest.mark.parametrize("name", LOGS)
def test_a_foreign_log_goes_from_file_to_a_served_decision(name: str, tmp_path: Path) -> None:
    write, questions, answers = LOGS[name]
    log, description = tmp_path / name, tmp_path / "mine.yaml"
    write(log)
    mtorl("data", "init", log, "--out", description)
    assert re.findall(r"(?m)^ *# CHECK (\w+):", description.read_text()) == questions
    if questions:
        assert "open CHECK" in mtorl("data", "validate", log, "--dataset", description, code=2)
        mtorl("data", "init", log, "--out", description, "--force", *(f"--column={answer}" for answer in answers))
    assert "2,000 of 2,000 rows can be used" in mtorl("data", "validate", log, "--dataset", description)
    mtorl("data", "build", log, "--dataset", description, "--out", tmp_path / "built")
    config = TrainConfig(epochs=1, hidden=8, device="cpu")
    artifact = fit_challenger(str(tmp_path / "built" / "windows"), str(tmp_path / "challenger"), config, 0.5)
    assert artifact is not None

    spec = DatasetSpec.load(description)
    row = pd.read_parquet(tmp_path / "built" / "touchpoints.parquet").iloc[0]
    context = {column.name: row[column.name] for column in spec.context}
    window = instance_from_history(
        {}, json.loads(json.dumps(context, default=float)), {}, spec, at=row["timestamp"].value
    )
    model = Predictor("challenger", artifact.folder)
    assert model.load()
    (decision,) = asyncio.run(model.predict({"instances": [{"window": window, "u": 0.5}]}))["predictions"]
    assert decision["channel"] in spec.channels and 0 < decision["propensity"] <= 1
