"""Quotes texts and column names for SQL statements of DuckDB and Spark."""

from pathlib import Path


def sql_text(value: str | Path) -> str:
    """Return a text as an SQL literal, in single quotes."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_name(column: str) -> str:
    """Return the name of a column as an SQL identifier, in double quotes."""
    return '"' + column.replace('"', '""') + '"'
