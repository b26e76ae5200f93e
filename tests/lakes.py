import hashlib
import itertools
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pandas as pd

from benchmarks.monitoring_runs.days import add_to_lake
from mtorl.log.decision_ids import BUCKET, HOUR, TIME, bucket_of, is_decision_id
from mtorl.log.lake import Lake, lake_database, name_of
from mtorl.log.records import ID_FIELD, Kind, sql_columns

_numbers = itertools.count(1)


def id_of(name: str, at: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC), user: str = "u1") -> str:
    """Return a decision id that depends only on the name, the time and the user."""
    ms, noise = f"{round(at.timestamp() * 1000):012x}", hashlib.md5(name.encode()).hexdigest()
    return f"{ms[:8]}-{ms[8:]}-7{bucket_of(user):02x}{noise[0]}-8{noise[1:4]}-{noise[4:16]}"


def ids_in(lake: Lake | Path) -> dict[str, str]:
    """Return the decision ids of a lake by the short names of the tests."""
    return _ids.setdefault(Path(lake.place if isinstance(lake, Lake) else lake).absolute(), {})


def upload(lake: Lake | Path, records: Mapping[Kind, pd.DataFrame], router: str = "") -> Lake:
    """Upload records as a router does.

    Missing columns become null. `ids_in` returns the ids of decisions with short names.
    """
    lake = lake if isinstance(lake, Lake) else Lake.open(lake)
    assert lake.folder is not None, "the lake must be a folder"
    for kind, rows in sorted(records.items()):  # decisions first: they have the times
        if rows.empty:
            continue
        rows = _with_ids(kind, rows, ids_in(lake))
        rows = rows.assign(**{name: value for name, value in _DEFAULTS.items() if name not in rows})
        add_to_lake(lake.folder, {kind: rows}, f"{router or 'made'}-{next(_numbers):08d}")
    return lake


def copy_back(lake: Lake, days: int) -> None:
    ms = f"lpad(lower(to_hex(epoch_ms({TIME}) - {days * 86_400_000})), 12, '0')"
    ids = {"decision_id": f"left({ms}, 8) || '-' || right({ms}, 4) || substr(decision_id, 14)"}
    ids |= {name: f"{name} || '-{days}'" for name in ("event_id", "shadow_id")}
    with lake_database(lake) as db, tempfile.TemporaryDirectory() as scratch:
        for kind in get_args(Kind):
            types = sql_columns(kind)
            times = {name: f"{name} - INTERVAL {days} DAY" for name in types if types[name] == "TIMESTAMPTZ"}
            moved = ", ".join(f"{sql} AS {name}" for name, sql in (ids | times).items() if name in types)
            last = f"FROM {lake.records(db, kind)} WHERE {TIME} > now() - INTERVAL 20 HOUR"
            db.execute(f"CREATE OR REPLACE TABLE moved AS SELECT * EXCLUDE (hour, bucket) REPLACE ({moved}) {last}")
            ((newest,),) = db.execute(f"SELECT max({HOUR}) FROM moved").fetchall()
            if newest is not None:
                file = Path(scratch, "moved.parquet")
                db.execute(f"COPY (SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM moved) TO '{file}'")
                lake.put(file, name_of(kind, newest, f"copy-{days}", arrived=True))


def _with_ids(kind: Kind, rows: pd.DataFrame, ids: dict[str, str]) -> pd.DataFrame:
    rows = rows.reset_index(drop=True)
    names = rows["decision_id"].astype(str)
    times = pd.to_datetime(rows["event_time"], utc=True, format="mixed")
    users = rows["user_id"] if "user_id" in rows else pd.Series("u1", rows.index)
    for i in times.sort_values(kind="stable").index:
        if not is_decision_id(names[i]):
            ids.setdefault(names[i], id_of(names[i], times[i], str(users[i])))
    own = rows.get(ID_FIELD[kind], names)
    return rows.assign(**{ID_FIELD[kind]: own, "decision_id": names.map(lambda name: ids.get(name, name))})


_ids: dict[Path, dict[str, str]] = {}
_DEFAULTS = {"schema_version": 1, "withdrawn": False, "override": False}
