"""Faults of a whole column, found once every row by itself is good: a description that no policy can learn from."""

from __future__ import annotations

import ibis

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError


def check(good: ibis.Table, spec: DatasetSpec) -> None:
    """Check the columns of a log.

    Args:
        good: The canonical log.
        spec: Its description.

    Raises:
        LogError: a column can't be used; all such columns are in the message.
    """
    totals = good.agg(cost=good["cost"].sum()).to_pyarrow().to_pylist()[0]
    if totals["cost"] == 0:
        source = spec.columns.get("cost")
        column = source.column if source and source.column else "cost"
        raise LogError(
            f"column {column!r}: every exposure costs 0, so there is no budget to spend. Name the column of the cost, "
            "or let an exposure cost one unit, in the description: columns: {cost: {value: 1}}"
        )
