"""Times and records in the SQL of collecting."""

from __future__ import annotations

from datetime import datetime

from mtorl.log.records import Kind, sql_columns, this_version

PARTITIONS = {"date": "VARCHAR", "hour": "VARCHAR"}
"""Columns that the folders of a store's hours are."""


def chosen(kind: Kind, found: str, by_hour: bool) -> str:
    """SQL of the records in a table that has the columns, perhaps in other types."""
    columns = [f"CAST({name} AS {type_}) AS {name}" for name, type_ in sql_columns(kind).items()]
    if by_hour:
        columns.append("CAST(date || ' ' || hour || ':00:00+00:00' AS TIMESTAMPTZ) AS hour")
    return f"(SELECT {', '.join(columns)} FROM {found} WHERE {this_version(kind)})"


def instant(value: datetime) -> str:
    """A time in SQL."""
    return f"TIMESTAMPTZ '{value.isoformat()}'"
