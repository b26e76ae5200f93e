"""Tests that the fields of records do not change, and that each decision counts once."""

import json
from itertools import permutations
from pathlib import Path
from typing import get_args

import duckdb
import jsonschema
import pandas as pd
import pytest

from mtorl.experiment import experiment
from mtorl.log.records import DecisionRecord, Kind, Stage, json_schema, plain_types, rank_among_copies, sql_columns
from tests.repository import ROOT

GOLDEN = ROOT / "tests" / "serving" / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_golden_records_are_valid(path: Path) -> None:
    kind: Kind = next(kind for kind in get_args(Kind) if path.stem.startswith(kind))
    validator = jsonschema.Draft202012Validator(json_schema(kind), format_checker=jsonschema.FormatChecker())
    record = json.loads(path.read_text())
    validator.validate(record)
    assert set(record) == set(sql_columns(kind)), "a new, removed or renamed field needs a new schema version"
    for name in record:
        assert not validator.is_valid({key: value for key, value in record.items() if key != name}), name
    assert not validator.is_valid({**record, "extra": 1})


def test_every_stage_of_an_experiment_can_be_logged() -> None:
    assert get_args(Stage) == ("off", *get_args(experiment.Stage))


def test_columns_have_the_types_of_the_fields() -> None:
    columns, types = sql_columns("decision"), plain_types(DecisionRecord)
    assert types["request_id"] is str and types["context"] is dict and types["price"] is float
    assert columns["request_id"] == columns["context"] == columns["candidates"] == columns["stage"] == "VARCHAR"
    assert columns["price"] == "DOUBLE" and columns["schema_version"] == "BIGINT" and columns["expose"] == "BOOLEAN"
    assert columns["event_time"] == sql_columns("outcome")["event_time"] == columns["request_time"] == "TIMESTAMPTZ"


RECORDS = [
    {"decision_id": "d", "withdrawn": False, "event_time": 1, "arm": "first"},
    {"decision_id": "d", "withdrawn": True, "event_time": 2, "arm": "withdrawal"},
    {"decision_id": "d", "withdrawn": True, "event_time": 3, "arm": "second withdrawal"},
]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_withdrawal_counts_in_any_order_of_arrival(order: tuple[int, ...]) -> None:
    log = pd.DataFrame([RECORDS[i] for i in order] + [{**RECORDS[0], "decision_id": "e"}])
    with duckdb.connect() as db:
        db.register("log", log)
        counts = f"SELECT decision_id, arm FROM log QUALIFY {rank_among_copies('decision')} = 1 ORDER BY 1"
        rows = db.sql(counts).fetchall()
    assert rows == [("d", "withdrawal"), ("e", "first")]
