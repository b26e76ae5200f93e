"""Tests that `mtorl pipeline schedule` survives repeated, concurrent and interrupted calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from pipelines.cluster.kfp_server import connect, upload
from pipelines.cluster.schedule import Schedule
from scripts.write_schemas import schema_text
from tests.pipelines.cluster.fake_kfp import FakeKfp, fake_kfp
from tests.repository import ROOT

TRAIN = ROOT / "manifests" / "pipelines" / "compiled" / "mtorl-train.yaml"
SHIPPED = ROOT / "manifests" / "pipelines" / "schedule.yaml"
NIGHTLY: dict[str, Any] = {
    "name": "train",
    "pipeline": "mtorl-train",
    "cron": "0 3 * * *",
    "parameters": {"source": "/log", "dataset": "mine"},
}
WEEKLY = NIGHTLY | {"name": "weekly", "cron": "0 4 * * 0"}
CHANGED = NIGHTLY | {"parameters": NIGHTLY["parameters"] | {"epochs": 3}}


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with fake_kfp() as server:
        upload(connect(server.endpoint, "mtorl", "token"), TRAIN)
        server.changes.clear()
        yield server


@pytest.fixture
def call(kfp: FakeKfp, tmp_path: Path) -> Any:
    def schedule(*runs: dict[str, Any], name: str = "shop") -> tuple[int, str]:
        file = tmp_path / "schedule.yaml"
        file.write_text(yaml.safe_dump({"name": name, "runs": list(runs)}))
        options = ["--endpoint", kfp.endpoint, "--existing-token", "token", "--namespace", "mtorl"]
        answer = CliRunner().invoke(app, ["pipeline", *options, "schedule", str(file)])
        return answer.exit_code, answer.output.splitlines()

    return schedule


def test_a_second_call_changes_nothing_and_concurrent_calls_leave_one_run(call: Any, kfp: FakeKfp) -> None:
    runs = (NIGHTLY, WEEKLY | {"enabled": False})
    assert call(*runs) == (0, ["train: created", "weekly: created"])
    changes, (made, _) = len(kfp.changes), kfp.recurring.values()
    assert call(*runs) == (0, ["train: unchanged", "weekly: unchanged"]) and len(kfp.changes) == changes
    kfp.recurring["copy"] = made | {"recurring_run_id": "copy"}
    assert call(*runs) == (0, ["train: unchanged", "weekly: unchanged"])
    assert kfp.on() == ["train"] and len(kfp.recurring) == 2


def test_fields_of_the_created_recurring_run(call: Any, kfp: FakeKfp) -> None:
    call(CHANGED)
    (made,) = kfp.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"].split() == [*"003***"]
    assert made["runtime_config"]["parameters"] == {"source": "/log", "dataset": "mine", "epochs": 3}
    assert made["max_concurrency"] == "1" and made["no_catchup"] is True and made["experiment_id"] == "group"
    assert made["pipeline_version_reference"] == {"pipeline_id": "mtorl-train"}, "runs follow the newest version"
    version = upload(connect(kfp.endpoint, "mtorl", "token"), TRAIN).version
    call(CHANGED | {"version": version})
    (made,) = kfp.recurring.values()
    assert made["pipeline_version_reference"]["pipeline_version_id"] == f"id-{version}", "a version can be pinned"


def test_a_changed_entry_replaces_disables_or_removes_its_run(call: Any, kfp: FakeKfp) -> None:
    call(NIGHTLY, WEEKLY)
    assert call(CHANGED) == (0, ["train: replaced", "weekly: removed"])
    ((name, left),) = kfp.recurring.items()
    assert left["runtime_config"]["parameters"]["epochs"] == 3 and left["status"] == "ENABLED"
    assert call(CHANGED | {"enabled": False}) == (0, ["train: disabled"]) and kfp.on() == []
    assert call(CHANGED) == (0, ["train: enabled"]) and list(kfp.recurring) == [name]
    assert call(CHANGED) == (0, ["train: unchanged"])


@pytest.mark.parametrize("cut_off", [1, 2])
def test_the_next_call_finishes_an_interrupted_one(call: Any, kfp: FakeKfp, cut_off: int) -> None:
    call(NIGHTLY)
    kfp.refuse_after = len(kfp.changes) + cut_off
    code, said = call(CHANGED)
    assert code == 1 and "status 503" in said[0]
    # If both recurring runs were enabled, the model would be trained twice in one night.
    assert len(kfp.on()) <= 1 and len(kfp.recurring) == (2 if cut_off == 1 else 1)
    kfp.refuse_after = None
    assert call(CHANGED)[0] == 0
    (left,) = kfp.recurring.values()
    assert left["runtime_config"]["parameters"]["epochs"] == 3 and left["status"] == "ENABLED"
    assert call(CHANGED) == (0, ["train: unchanged"])


def test_recurring_runs_of_others_are_not_changed(call: Any, kfp: FakeKfp) -> None:
    call(NIGHTLY | {"name": "theirs"}, name="other")
    call(NIGHTLY | {"name": "by hand"})
    for made in kfp.recurring.values():
        if made["display_name"] == "by hand":
            made["description"] = "Every night."
    assert call(NIGHTLY) == (0, ["train: created"]) and len(kfp.recurring) == 3
    for name in ("by hand", "theirs"):
        code, said = call(NIGHTLY | {"name": name})
        assert code == 2 and f"'{name}'" in said[0] and len(kfp.recurring) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pipeline": "other"}, "second: no pipeline 'other' on the server: mtorl pipeline upload"),
        ({"version": "mtorl-train-0"}, "second: no version 'mtorl-train-0' of 'mtorl-train' on the server"),
        ({"cron": "0 0 3 * * *"}, r"runs[1].cron: expected minute hour day month weekday"),
        ({"parameters": {"epochs": [1]}}, "parameters"),
        ({"paramters": {}}, "unknown field 'paramters'"),
        ({"name": "train"}, "two runs have the name 'train'"),
    ],
)
def test_one_invalid_entry_stops_all_changes(call: Any, kfp: FakeKfp, changes: dict[str, Any], words: str) -> None:
    code, said = call(NIGHTLY, NIGHTLY | {"name": "second"} | changes)
    assert code == 2 and any(words in line for line in said) and kfp.recurring == {}


def test_the_shipped_schedules_fit_their_pipelines_and_the_schema_refuses_unknown_fields() -> None:
    schema = json.loads(schema_text("pipeline-schedule"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "shop", "runs": [NIGHTLY | {"every": "night"}]}, schema)
    for run in Schedule.load(SHIPPED).runs:
        compiled = SHIPPED.parent / "compiled" / f"{run.pipeline}.yaml"
        spec = next(yaml.load_all(compiled.read_text(), yaml.CSafeLoader))
        known = spec["root"]["inputDefinitions"]["parameters"]
        needed = {name for name, one in known.items() if not one.get("isOptional")}
        assert needed <= run.parameters.keys() <= known.keys()
