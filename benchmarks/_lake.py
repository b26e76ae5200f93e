"""Adds made-up records to a lake, as a router does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pandas as pd

from mtorl.log.decision_ids import BUCKET, HOUR
from mtorl.log.lake import name_of
from mtorl.log.records import Kind, sql_columns


def add_to_lake(folder: Path, records: Mapping[Kind, pd.DataFrame], name: str = "day") -> None:
    """Write a file of each kind, of the hour of the newest decision; fields without a column are null."""
    for kind, rows in records.items():
        there = {field: f'"{field}"' if field in rows else "NULL" for field in sql_columns(kind)}
        typed = ", ".join(f'CAST({there[field]} AS {type_}) AS "{field}"' for field, type_ in sql_columns(kind).items())
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("rows", rows)
            placed = db.sql(f"SELECT *, {HOUR} AS hour, {BUCKET} AS bucket FROM (SELECT {typed} FROM rows)")
            ((newest,),) = placed.aggregate("max(hour)").fetchall()
            file = folder / name_of(kind, newest, name, arrived=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            placed.order("decision_id").write_parquet(str(file))
