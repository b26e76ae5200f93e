"""Texts and names of columns in SQL, for DuckDB and Spark."""

from pathlib import Path


def sql_text(value: str | Path) -> str:
    """A text in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def sql_name(column: str) -> str:
    """The name of a column in SQL."""
    return '"' + column.replace('"', '""') + '"'
