"""Segments of decisions: a categorical column of the context or of the user, as a decision record holds it.

check_segment(spec, "device")
segment_sql(spec, "device", "d")       # DuckDB: json_extract_string(d.context, '$.device')
"""

from __future__ import annotations

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError


def check_segment(spec: DatasetSpec, name: str) -> None:
    """Raise LogError unless a column can tell segments apart."""
    known = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    if name not in known:
        raise LogError(f"by: {name!r} is no categorical column; there are {', '.join(known) or 'none'}")


def segment_sql(spec: DatasetSpec, name: str, record: str) -> str:
    """DuckDB SQL: the value of a column that passes `check_segment`, as text, in the record of this alias; or null."""
    of_user = name in [column.name for column in spec.static]
    field, path = ("features", f"$.static.{name}") if of_user else ("context", f"$.{name}")
    return f"json_extract_string({record}.{field}, '{path}')"
