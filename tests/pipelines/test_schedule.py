"""The file that says what recurs: its faults in words, and what its cron expressions mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml

from pipelines.kfp_errors import RequestError
from pipelines.schedule import Schedule, kfp_cron, next_run, seconds_until_quiet
from pipelines.server import typed
from scripts.write_schemas import schema_text
from tests.repository import ROOT

SHIPPED = sorted((ROOT / "manifests" / "pipelines" / "schedules").glob("*.yaml"))
NIGHTLY = {"name": "train", "pipeline": "mtorl-train", "cron": "0 3 * * *"}


def load(folder: Path, **changes: Any) -> Schedule:
    path = folder / "schedule.yaml"
    path.write_text(yaml.safe_dump({"name": "shop", "runs": [NIGHTLY | changes]}))
    return Schedule.load(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_can_be_run(path: Path) -> None:
    schedule = Schedule.load(path)
    assert schedule.name == path.stem and len(schedule.runs) == 2
    for run in schedule.runs:
        compiled = ROOT / "manifests" / "pipelines" / path.stem / f"{run.pipeline}.yaml"
        typed(run.texts, next(yaml.safe_load_all(compiled.read_text())))


def test_both_are_there() -> None:
    assert [path.stem for path in SHIPPED] == ["production", "staging"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cron": "0 0 3 * * *"}, r"runs\[0\].cron: expected five fields .* leave out the seconds"),
        ({"cron": "0 3 * *"}, "expected minute hour day month weekday, such as '0 3 [*]"),
        ({"cron": "0 25 * * *"}, "got '0 25 .* \\(Bad hour\\)"),
        ({"cron": "0 3 * * 7"}, "Sunday is 0 for KFP, and not 7"),
        ({"cron": "0 3 * * 1-7"}, "Sunday is 0 for KFP, and not 7"),
        ({"cron": "0 3 L * *"}, "expected minute hour day month weekday"),
        ({"cron": "0 3 * * MON#1"}, "expected minute hour day month weekday"),
        ({"cron": "@daily"}, "expected minute hour day month weekday"),
        ({"parameters": {"epochs": [1]}}, "parameters"),
        ({"paramters": {}}, "unknown field 'paramters'"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(tmp_path, **changes)


def test_a_zone_that_is_none_and_a_name_given_twice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(yaml.safe_dump({"name": "shop", "time_zone": "Berlin", "runs": []}))
    with pytest.raises(
        RequestError, match="time_zone: expected a time zone such as UTC or Europe/Berlin, got 'Berlin'"
    ):
        Schedule.load(path)
    path.write_text(yaml.safe_dump({"name": "shop", "runs": [NIGHTLY, NIGHTLY]}))
    with pytest.raises(RequestError, match="two runs have the name 'train'"):
        Schedule.load(path)


def test_parameters_are_texts_as_on_the_command_line(tmp_path: Path) -> None:
    run = load(tmp_path, parameters={"simulate": True, "epochs": 3, "min_lift": 0.5, "source": "/log"}).runs[0]
    assert run.texts == {"simulate": "true", "epochs": "3", "min_lift": "0.5", "source": "/log"}


def test_the_schema_knows_what_the_model_knows(tmp_path: Path) -> None:
    schema = json.loads(schema_text("pipeline-schedule"))
    for path in SHIPPED:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "shop", "runs": [NIGHTLY | {"every": "night"}]}, schema)


def test_when_it_runs_next_is_said_in_the_servers_zone() -> None:
    now, berlin = datetime(2026, 3, 28, 12, tzinfo=UTC), ZoneInfo("Europe/Berlin")
    assert next_run("0 3 * * *", ZoneInfo("UTC"), now) == datetime(2026, 3, 29, 3, tzinfo=UTC)
    assert next_run("0 4 * * *", berlin, now) == datetime(2026, 3, 29, 2, tzinfo=UTC)  # summer time from that night on
    assert next_run(kfp_cron("30 3 * * 1-5"), ZoneInfo("UTC"), now) == datetime(2026, 3, 30, 3, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "at", "seconds"),
    [
        ("0 0 3 * * *", "12:00:00", 0),
        ("0 0 3 * * *", "02:58:59", 0),
        ("0 0 3 * * *", "02:59:30", 90),
        ("0 0 3 * * *", "03:00:00", 60),
        ("0 0 3 * * *", "02:59:59.900", 61),
        ("0 0 3 * * *", "03:00:20", 40),
        ("0 0 3 * * *", "03:01:00", 0),
        ("0 * * * * *", "03:00:20", 0),  # there is no quiet minute, and one run more or less is nothing
        ("what somebody else has written", "03:00:20", 0),
    ],
)
def test_a_quiet_moment_is_a_minute_away_from_what_is_due(cron: str, at: str, seconds: float) -> None:
    now = datetime.fromisoformat(f"2026-11-29T{at}+00:00")
    assert seconds_until_quiet(cron, ZoneInfo("UTC"), now) == seconds
