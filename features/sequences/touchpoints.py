"""Clean touchpoints: once each, at times that differ within a user, with the time from which each was known.

    touchpoints = clean_touchpoints(engine.read("touchpoints.parquet"), spec)    # an expression, on DuckDB or Spark

A log that was ingested here is already clean: one aggregation confirms that, and nothing more is done. In a log from
elsewhere:

1. Of a touchpoint that is there twice (see `SAME_TOUCHPOINT`), the one that arrived first stays.
2. Several touchpoints of a user at one time are put one microsecond apart, so that "before" has a meaning. They are
   ordered by campaign, channel, arrival and then the other columns, so the result does not depend on chance.
3. A user with more than `spec.max_touchpoints` is a bot: only the first ones are kept. What came first does not depend
   on what came later, so the future can't leak in. The exception are rows that arrived late: they count at the time
   when they happened, and may move a touchpoint of the same time by a microsecond.
"""

from __future__ import annotations

from typing import Any

import ibis
import ibis.expr.datatypes as dt

from features.engine import timestamp_micros, unix_micros
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import COLLECTED, CREATED, LogError, schema

SAME_TOUCHPOINT = ("user_id", "timestamp", "campaign_id", "channel")
"""Rows that are equal in these columns are one touchpoint, logged more than once."""

_UTC = dt.Timestamp(timezone="UTC", scale=6)


def clean_touchpoints(log: ibis.Table, spec: DatasetSpec, clean: bool | None = None) -> ibis.Table:
    """Clean the touchpoints of a canonical log; they come in no order.

    Args:
        clean: Whether nothing has to be dropped or moved; None asks the engine, in one aggregation.

    Returns:
        `spec.log_columns` in canonical types, the times of `spec.timed` outcomes, `created_timestamp` and `collected`
        if the log has them, and `known`: the time from which a row may be used, the later of the two times. Without
        arrival times a row is known when it happens.
    """
    rows = canonical(log, spec)
    if is_clean(rows, spec) if clean is None else clean:
        return _known(rows)
    return kept(marked(rows, spec), spec)


def kept(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """The rows to keep of those that `marked` has marked."""
    rows = marked.filter(~marked._repeated, marked._place <= spec.max_touchpoints)
    return _known(rows.mutate(timestamp=rows._time).drop("_repeated", "_place", "_time"))


def _known(rows: ibis.Table) -> ibis.Table:
    arrived = ibis.coalesce(rows[CREATED], rows.timestamp) if CREATED in rows.columns else rows.timestamp
    return rows.mutate(known=ibis.greatest(rows.timestamp, arrived))


def is_clean(log: ibis.Table, spec: DatasetSpec) -> bool:
    """Whether no touchpoint has to be dropped or moved."""
    moments = log.group_by("user_id", "timestamp").aggregate(rows=log.count())
    users = moments.group_by("user_id").aggregate(rows=moments.rows.sum(), ties=moments.rows.max())
    most = users.aggregate(rows=users.rows.max(), ties=users.ties.max()).to_pyarrow().to_pylist()[0]
    return (most["ties"] or 0) <= 1 and (most["rows"] or 0) <= spec.max_touchpoints


def cleaned(marked: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Count the rows that `kept` drops and moves: dropped_duplicates, moved_ties, capped_users, dropped_by_cap."""
    first = ~marked._repeated
    beyond = marked._place > spec.max_touchpoints
    counts = {
        "dropped_duplicates": marked._repeated,
        "moved_ties": first & ~beyond & (marked._time != marked.timestamp),
        "capped_users": first & (marked._place == spec.max_touchpoints + 1),
        "dropped_by_cap": first & beyond,
    }
    return marked.aggregate(**{name: rows.cast("int64").sum().fill_null(0) for name, rows in counts.items()})


def canonical(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """The columns of the log in canonical order and types; others are left out."""
    times = tuple(spec.outcome_times.values())
    if missing := [name for name in (*spec.log_columns, *times) if name not in log.columns]:
        raise LogError(f"the log lacks {', '.join(missing)}; see `mtorl data validate`")
    kinds = dict(ibis.Schema.from_pyarrow(schema(spec)).items())
    arrival = [CREATED] if CREATED in log.columns else []
    kinds |= dict.fromkeys(("timestamp", *times, *arrival), _UTC)
    kinds |= {COLLECTED: dt.boolean} if COLLECTED in log.columns else {}
    return log.select(**{name: log[name].cast(kind) for name, kind in kinds.items()})


def strictly_increasing(micros: ibis.Value, place: ibis.Value, so_far: Any) -> ibis.Value:
    """The earliest strictly increasing times that are not before a user's own: max over j <= i of t_j + (i - j).

    This is the one rule for ties: touchpoints of a user at the same time are put 1 us apart. `place` numbers the rows
    of a user, and `so_far` is the SQL window from the user's first row to this one.
    """
    return place + (micros - place).max().over(so_far)


def marked(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Mark the rows of a canonical log.

    `_repeated`: whether a row repeats an earlier one; `_place`: its number among the other rows of its user, from 1;
    `_time`: its time without ties.
    """
    first = list(SAME_TOUCHPOINT[1:])
    # A row without a time of arrival was known when it happened.
    arrival = [ibis.coalesce(log[CREATED], log.timestamp)] if CREATED in log.columns else []
    order = [*first, *arrival, *(name for name in log.columns if name not in ("user_id", *first))]
    in_order = ibis.window(group_by="user_id", order_by=order)

    same = log.timestamp == log.timestamp.lag().over(in_order)
    for name in SAME_TOUCHPOINT[2:]:
        same &= log[name].identical_to(log[name].lag().over(in_order))
    # Numbered once: the order of rows that are equal in all columns must not change between the windows below, and
    # sorting by a number is faster.
    rows = log.mutate(_repeated=same.fill_null(False), _turn=ibis.row_number().over(in_order))
    so_far = ibis.cumulative_window(group_by="user_id", order_by="_turn")
    rows = rows.mutate(_place=(~rows._repeated).cast("int64").sum().over(so_far))
    micros = unix_micros(rows.timestamp)
    moved = strictly_increasing(micros, rows._place, so_far)
    return rows.mutate(_time=(moved > micros).ifelse(timestamp_micros(moved), rows.timestamp)).drop("_turn")
