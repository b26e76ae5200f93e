"""Decision logs as routers export them, for tests: a few records, or many of a market whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from mtorl.log.dataset import Column, DatasetSpec, RewardSpec
from mtorl.log.records import Kind, sql_columns
from tests.repository import ROOT

_GOLDEN = ROOT / "tests" / "serving" / "golden"
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC = DatasetSpec(
    name="toy",
    channels=("search", "social", "display", "video"),
    context=(
        Column(name="hour", kind="numeric"),
        Column(name="device", kind="categorical"),
        Column(name="placement", kind="categorical", missing="unknown"),
    ),
    static=(Column(name="age_group", kind="categorical", missing="unknown"),),
    reward=RewardSpec(gain="click"),
    propensity="logged",
)


def decision(name: str, minutes: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A decision record; minutes after `START`."""
    record = json.loads((_GOLDEN / "decision.json").read_text())
    at = (START + timedelta(minutes=minutes)).isoformat()
    own = {"decision_id": name, "request_id": name, "reservation_id": name, "event_time": at, "request_time": at}
    return {**record, **own, **changes}


def outcome(event: str, of: str, kind: str = "cost", value: float = 0.03, minutes: float = 1.0) -> dict[str, Any]:
    """An outcome record."""
    record = json.loads((_GOLDEN / "outcome.json").read_text())
    at = (START + timedelta(minutes=minutes)).isoformat()
    own = {"event_id": event, "decision_id": of, "kind": kind, "value": value, "event_time": at, "received_time": at}
    return {**record, **own}


def write(
    folder: Path,
    decisions: Sequence[dict[str, Any]] = (),
    outcomes: Sequence[dict[str, Any]] = (),
    shadows: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write an export of a router; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    by_kind: dict[Kind, Sequence[dict[str, Any]]] = {"decision": decisions, "outcome": outcomes}
    for kind, records in (by_kind | ({"shadow": shadows} if shadows else {})).items():
        columns = sql_columns(kind)
        rows = [
            {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in record.items()}
            for record in records
        ]
        frame = pd.DataFrame(rows, columns=list(columns)).astype(object)
        typed = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in columns.items())
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("records", frame.where(frame.notna(), None).map(lambda v: None if v is None else str(v)))
            db.sql(f"SELECT {typed} FROM records").write_parquet(str(folder / f"{kind}s.parquet"))
    return folder


def stored(store: Path, kind: str) -> list[dict[str, Any]]:
    """All records of a store, sorted by id."""
    files = store / f"{kind}s" / "*" / "*" / "*.parquet"
    key = "decision_id" if kind == "decision" else "event_id"
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        query = f"SELECT * FROM read_parquet('{files}', hive_partitioning = false, union_by_name = true)"
        return db.execute(f"{query} ORDER BY {key}, event_time").df().astype(object).to_dict("records")
