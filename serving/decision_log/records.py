"""The record schemas, read from `schema/`: the one place that says which fields there are and of which type."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["decision", "outcome"]
SCHEMA_VERSION = 1
OUTCOME_KINDS = ("cost", "click", "conversion", "revenue", "cancel")

_SQL_TYPES = {"string": "VARCHAR", "number": "DOUBLE", "integer": "BIGINT", "boolean": "BOOLEAN"}


@cache
def schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of a record."""
    path = Path(__file__).parent / "schema" / f"{kind}.v{SCHEMA_VERSION}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def sql_columns(kind: Kind) -> dict[str, str]:
    """Columns and their DuckDB types; objects and lists stay JSON text, for their keys differ between data sets."""
    return {name: _sql_type(field) for name, field in schema(kind)["properties"].items()}


def _sql_type(field: dict[str, Any]) -> str:
    if field.get("format") == "date-time":
        return "TIMESTAMPTZ"
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return _SQL_TYPES.get(next(kind for kind in kinds if kind != "null"), "VARCHAR")
