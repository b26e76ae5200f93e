"""Quotes text and column names for SQL, in DuckDB and Spark."""

from pathlib import Path


def sql_text(value: str | Path) -> str:
    """A text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_name(column: str) -> str:
    """The name of a column as an SQL identifier."""
    return '"' + column.replace('"', '""') + '"'
