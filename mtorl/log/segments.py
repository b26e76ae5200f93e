"""Segments of decisions: a categorical column of the context or of the user, as a decision record holds it.

check_segment(spec, "device")
segment_sql(spec, "device", "d")       # DuckDB: json_extract_string(d.context, '$.device')
"""

from __future__ import annotations

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError


def check_segment(spec: DatasetSpec, name: str) -> None:
    """Check that a column can tell segments apart.

    Raises:
        LogError: it can't.
    """
    known = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    if name not in known:
        raise LogError(f"by: {name!r} is no categorical column; there are {', '.join(known) or 'none'}")


def segment_sql(spec: DatasetSpec, name: str, record: str) -> str:
    """DuckDB SQL: the value that a decision record has of a column, as text; null: nobody knows it.

    Args:
        spec: Description of the data set.
        name: A column that `check_segment` passes; names of columns need no quotes.
        record: Alias of the record.
    """
    of_user = name in [column.name for column in spec.static]
    field, path = ("features", f"$.static.{name}") if of_user else ("context", f"$.{name}")
    return f"json_extract_string({record}.{field}, '{path}')"
