"""Segments of decisions: a categorical column of the context or of the user, as a decision record holds it."""

from __future__ import annotations

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError


def segment_sql(spec: DatasetSpec, name: str, record: str) -> str:
    """DuckDB SQL: a column's value as text, or null, in the record of this alias; LogError for no categorical column.

    For "device" and "d": json_extract_string(d.context, '$.device').
    """
    known = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    if name not in known:
        raise LogError(f"by: {name!r} is no categorical column; there are {', '.join(known) or 'none'}")
    of_user = name in [column.name for column in spec.static]
    return f"json_extract_string({record}.{'static' if of_user else 'context'}, '$.{name}')"
