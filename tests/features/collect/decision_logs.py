"""Writes a lake as routers do, with short names such as "d1" for decision ids."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.lake import Lake, lake_database
from mtorl.log.records import ID_FIELD, Kind, unit_hash
from tests.lakes import ids_in, upload
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
    propensity="logged",
)


def decision(name: str, minutes: float = 0.0, **changes: Any) -> dict[str, Any]:
    record = json.loads((_GOLDEN / "decision.json").read_text())
    at = (START + timedelta(minutes=minutes)).isoformat()
    own = {"decision_id": name, "request_id": name, "reservation_id": name, "event_time": at, "request_time": at}
    user = str(changes.get("user_id", record["user_id"]))
    return {**record, **own, "unit_hash": unit_hash(user), **changes}


def outcome(event: str, of: str, kind: str = "cost", value: float = 0.03, minutes: float = 1.0) -> dict[str, Any]:
    record = json.loads((_GOLDEN / "outcome.json").read_text())
    at = (START + timedelta(minutes=minutes)).isoformat()
    own = {"event_id": event, "decision_id": of, "kind": kind, "value": value, "event_time": at, "received_time": at}
    return {**record, **own}


def write(folder: Path, *records: Sequence[dict[str, Any]], **by_kind: Sequence[dict[str, Any]]) -> Path:
    """Replace a lake; decisions may have short names for ids (see `tests.lakes.ids_in`)."""
    shutil.rmtree(folder / "arrived", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    ids_in(folder).clear()
    return add(folder, *records, **by_kind)


def add(
    folder: Path,
    decisions: Sequence[dict[str, Any]] = (),
    outcomes: Sequence[dict[str, Any]] = (),
    shadows: Sequence[dict[str, Any]] = (),
) -> Path:
    """Upload more records; a decision's field `window` becomes a record of its own."""
    shared = ("schema_version", "decision_id", "event_time")
    windows = [{name: one[name] for name in (*shared, "window")} for one in decisions if "window" in one]
    by_kind: dict[Kind, Sequence[dict[str, Any]]] = {
        **{"decision": decisions, "outcome": outcomes},
        **{"shadow": shadows, "window": windows},
    }
    upload(folder, {kind: _table(records) for kind, records in by_kind.items()})
    return folder


def _table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in record.items()}
        for record in records
    ]
    table = pd.DataFrame(rows).astype(object)
    return table.where(table.notna(), None).map(lambda value: None if value is None else str(value))


def named(folder: Path, ids: pd.Series) -> pd.Series:
    return ids.replace({made: name for name, made in ids_in(folder).items()})


def stored(place: Path, kind: Kind) -> list[dict[str, Any]]:
    lake = Lake.open(place)
    with lake_database(lake) as db:
        rows = db.execute(f"FROM {lake.records(db, kind)}").df().astype(object).to_dict("records")
    names = {made: name for name, made in ids_in(place).items()}
    rows = [{**row, "decision_id": names.get(row["decision_id"], row["decision_id"])} for row in rows]
    return sorted(rows, key=lambda row: str(row[ID_FIELD[kind]]))
