"""The touchpoints of a log as everything else may use them: once each, in a strict order, with the time of knowledge.

    touchpoints = clean_touchpoints(engine.read("touchpoints.parquet"), spec)    # an expression, on DuckDB or Spark

A log that came through this project's door is already clean: one aggregation sees that, and nothing more is done. A log
may also come from elsewhere:

1. The same touchpoint twice (user, time, campaign, channel): the one that arrived first stays.
2. Several touchpoints of a user at one time: put one microsecond apart, so that "before" has a meaning. Their order is
   by campaign, channel, arrival and then the other columns, never by chance.
3. A user with more than `spec.max_touchpoints` is a bot: only the first ones are kept. What came first does not depend
   on what came later, so this can't leak, unless rows arrived late: such a row counts in the place where it happened,
   and may move a touchpoint of the same time by a microsecond.
"""

from __future__ import annotations

from typing import Any

import ibis
import ibis.expr.datatypes as dt

from features.engine import timestamp_micros, unix_micros
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import CREATED, LogError, schema

_UTC = dt.Timestamp(timezone="UTC", scale=6)


def clean_touchpoints(log: ibis.Table, spec: DatasetSpec, clean: bool | None = None) -> ibis.Table:
    """Clean touchpoints, in no order.

    Args:
        log: Canonical log, with `created_timestamp` or without.
        spec: Description of the data set.
        clean: Whether nothing must be dropped or moved; None asks the engine, in one aggregation.

    Returns:
        `spec.columns` in canonical types, `created_timestamp` if the log has it, and `known`: the time from which a row
        may be used, the later of the two times. Without arrival times a row is known when it happens.

    Raises:
        LogError: the log lacks a column.
    """
    rows = canonical(log, spec)
    if is_clean(rows, spec) if clean is None else clean:
        return _known(rows)
    return kept(marked(rows, spec), spec)


def kept(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """The touchpoints, as `touchpoints` gives them, of what `marked` gives."""
    rows = marked.filter(~marked._again, marked._place <= spec.max_touchpoints)
    return _known(rows.mutate(timestamp=rows._time).drop("_again", "_place", "_time"))


def _known(rows: ibis.Table) -> ibis.Table:
    arrived = ibis.coalesce(rows[CREATED], rows.timestamp) if CREATED in rows.columns else rows.timestamp
    return rows.mutate(known=ibis.greatest(rows.timestamp, arrived))


def is_clean(log: ibis.Table, spec: DatasetSpec) -> bool:
    """Whether no touchpoint must be dropped or moved."""
    moments = log.group_by("user_id", "timestamp").aggregate(rows=log.count())
    users = moments.group_by("user_id").aggregate(rows=moments.rows.sum(), ties=moments.rows.max())
    found = users.aggregate(rows=users.rows.max(), ties=users.ties.max()).to_pyarrow().to_pylist()[0]
    return (found["ties"] or 0) <= 1 and (found["rows"] or 0) <= spec.max_touchpoints


def cleaned(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """What `kept` drops and moves, counted.

    Returns:
        One row: dropped_duplicates, moved_ties, capped_users, dropped_by_cap.
    """
    first = ~marked._again
    beyond = marked._place > spec.max_touchpoints
    counts = {
        "dropped_duplicates": marked._again,
        "moved_ties": first & ~beyond & (marked._time != marked.timestamp),
        "capped_users": first & (marked._place == spec.max_touchpoints + 1),
        "dropped_by_cap": first & beyond,
    }
    return marked.aggregate(**{name: rows.cast("int64").sum().fill_null(0) for name, rows in counts.items()})


def canonical(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """The columns of the log in canonical order and types; others go.

    Raises:
        LogError: the log lacks a column.
    """
    if missing := [name for name in spec.columns if name not in log.columns]:
        raise LogError(f"the log lacks {', '.join(missing)}; see `mtorl data validate`")
    kinds = dict(ibis.Schema.from_pyarrow(schema(spec)).items()) | {"timestamp": _UTC}
    if CREATED in log.columns:
        kinds[CREATED] = _UTC
    return log.select(**{name: log[name].cast(kind) for name, kind in kinds.items()})


def apart(micros: ibis.Value, place: ibis.Value, so_far: Any) -> ibis.Value:
    """The earliest strictly increasing times that are not before the given ones: max over t_j + (i - j) for j <= i.

    Args:
        micros: Times, us.
        place: Number of each row among those of its user.
        so_far: Window from the user's first row to this one.
    """
    return place + (micros - place).max().over(so_far)


def marked(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """The rows of a canonical log, marked.

    Returns:
        The columns of the log; `_again`, whether a row is a duplicate; `_place`, its number among the others of its
        user, from 1; `_time`, its time without ties.
    """
    first = ["timestamp", "campaign_id", "channel"]
    # Without a time of arrival a row was known when it happened.
    arrival = [ibis.coalesce(log[CREATED], log.timestamp)] if CREATED in log.columns else []
    order = [*first, *arrival, *(name for name in log.columns if name not in ("user_id", *first))]
    in_order = ibis.window(group_by="user_id", order_by=order)

    same = log.timestamp == log.timestamp.lag().over(in_order)
    for name in ("campaign_id", "channel"):
        same &= log[name].identical_to(log[name].lag().over(in_order))
    # Numbered once: rows that are equal in all columns must not change places, and a number is sorted sooner.
    rows = log.mutate(_again=same.fill_null(False), _turn=ibis.row_number().over(in_order))
    so_far = ibis.cumulative_window(group_by="user_id", order_by="_turn")
    rows = rows.mutate(_place=(~rows._again).cast("int64").sum().over(so_far))
    micros = unix_micros(rows.timestamp)
    moved = apart(micros, rows._place, so_far)
    return rows.mutate(_time=(moved > micros).ifelse(timestamp_micros(moved), rows.timestamp)).drop("_turn")
