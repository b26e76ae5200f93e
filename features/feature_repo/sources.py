"""Computes the Parquet files from which Feast reads features.

    user_static.parquet      static columns of a user (if the data set has any)
    user_channel.parquet     touchpoints and clicks of a user's last 7 days by channel, hour by hour
    campaign_stats.parquet   touchpoints, rates and mean cost of a campaign's last 24 hours, hour by hour

The counts at the end of an hour include only events that were known by then.
"""

import math
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt

from features import messages
from features.engine import Engine, timestamp_micros, unix_micros
from features.sequences.builder import ROWS_PER_SHARD
from mtorl.log.dataset import EVENTS, DatasetSpec, FeatureViewSpec, SpecError, outcome_time
from mtorl.log.times import DAY_US, HOUR_US
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.files import replacing
from mtorl.window.window import STATIC, history_types

USER_CHANNEL, CAMPAIGN_STATS = "user_channel", "campaign_stats"
USER_DAYS = 7
CAMPAIGN_DAYS = 1

_TIMES = ("timestamp", "created_timestamp")
_LARGEST = sys.float_info.max
_UTC = dt.Timestamp(timezone="UTC", scale=6)
# With this factor, one integer holds a number of touchpoints and a number of clicks.
_CLICK = 2**32
_BILLION = 10**9


def build_sources(
    engine: Engine,
    touchpoints: ibis.Table,
    spec: DatasetSpec,
    out_dir: Path | str,
    some: ibis.Table | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Write the Parquet files of the feature views.

    Args:
        out_dir: Folder to write. For a large log, each Parquet file becomes a folder of parts.
        some: Touchpoints of the users whose features are written. By default, those of all users.

    Raises:
        LogError: The log has no rows.
    """
    out = Path(out_dir)
    some = touchpoints if some is None else some
    rows = some.count().to_pyarrow().as_py()
    if not rows and some is touchpoints:
        raise LogError("the log has no rows")
    # Use as many shards as the windows have, so that rows that are joined at once are close together.
    shards = max(1, math.ceil(rows / ROWS_PER_SHARD))

    def by_user(build: Callable[[ibis.Table, DatasetSpec], ibis.Table], path: Path) -> None:
        if shards == 1:
            engine.write(build(some, spec).order_by("user_id", *_TIMES), path)
        else:
            with replacing(path) as folder:
                engine.write_shards(some, lambda part: build(part, spec), folder, shards, lambda _: progress.advance())

    def own(view: FeatureViewSpec, path: Path) -> None:
        table = own_view(engine.read(view.source or ""), view)
        engine.write(table.order_by(table.columns[0], *_TIMES), path)

    def campaigns(path: Path) -> None:
        engine.write(campaign_stats(touchpoints, spec).order_by("campaign_id", *_TIMES), path)

    users = {USER_CHANNEL: user_channel, **({STATIC: user_static} if spec.static else {})}
    jobs: dict[str, Callable[[Path], None]] = {name: partial(by_user, build) for name, build in users.items()}
    jobs |= {view.view: partial(own, view) for view in spec.features if view.source is not None}
    jobs[CAMPAIGN_STATS] = campaigns
    jobs = {name: job for name, job in jobs.items() if only is None or name in only}
    for done, (name, job) in enumerate(jobs.items()):
        progress.report(done, len(jobs), f"{name}, {rows:,} rows", 1 / shards if name in users else 1.0)
        job(out / f"{name}.parquet")


def newest_touchpoints(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return each user's last `spec.window` touchpoints, oldest first, with the columns of `history_types`."""
    window = ibis.window(group_by="user_id", order_by=ibis.desc("timestamp"))
    rows = touchpoints.mutate(place=ibis.row_number().over(window))
    rows = rows.filter(rows.place < spec.window)
    columns, times = {}, {"hist_timestamp", *(f"hist_{name}" for name in spec.outcome_times.values())}
    for name, kind in history_types(spec).items():
        value = rows[name.removeprefix("hist_")]
        value = unix_micros(value) if name in times else value
        # Windows represent a missing number as NaN and a missing text as "".
        columns[name] = value.cast(kind).fill_null("" if kind == "string" else float("nan"))
    return rows.select("user_id", **columns).order_by("user_id", "hist_timestamp")


def changed_users(touchpoints: ibis.Table, spec: DatasetSpec, since_us: int, end_us: int) -> ibis.Table:
    """Return the users whose features may have changed between the times `since_us` and `end_us`."""
    counted, hour_before = USER_DAYS * DAY_US, since_us - HOUR_US
    changed = touchpoints.known > timestamp_micros(since_us - round(spec.outcome_hours * HOUR_US))
    for name in ("known", *(outcome_time(kind) for kind in spec.timed)):
        at = touchpoints[name]
        left = at.between(timestamp_micros(hour_before - counted), timestamp_micros(end_us - counted))
        changed = changed | (at > timestamp_micros(hour_before)) | left
    return touchpoints.filter(changed.fill_null(False)).select("user_id").distinct()


def user_static(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return one row per user, with the user's first value of each static column.

    The row is dated one day before the first touchpoint, so that the first touchpoint already gets these features.
    """
    first = touchpoints.mutate(place=ibis.row_number().over(ibis.window(group_by="user_id", order_by="timestamp")))
    first = first.filter(first.place == 0)
    since = timestamp_micros(unix_micros(first.timestamp) - DAY_US)
    return first.select("user_id", timestamp=since, created_timestamp=since, **{c.name: c.name for c in spec.static})


def own_view(rows: ibis.Table, view: FeatureViewSpec) -> ibis.Table:
    """Return the rows of a feature view that a team provides as its own file.

    Raises:
        SpecError: The file lacks a column, or a column has the wrong type.
    """
    assert view.key is not None
    created = view.created_timestamp or view.timestamp
    needed = [view.key, view.timestamp, created, *(field.name for field in view.fields)]
    if missing := [name for name in needed if name not in rows.columns]:
        raise SpecError(messages.VIEW_LACKS(view=view.view, file=view.source, columns=[*dict.fromkeys(missing)]))
    for name in dict.fromkeys((view.timestamp, created)):
        kind = rows[name].type()
        if not (kind.is_timestamp() or kind.is_date() or kind.is_unknown()):  # Ibis reports "unknown" for nanoseconds
            raise SpecError(messages.VIEW_TYPE(view=view.view, file=view.source, column=name, wanted="times"))
    values: dict[str, ibis.Value] = {}
    for field in view.fields:
        value = rows[field.name]
        cast = "string" if field.kind == "categorical" else "array<float64>" if field.by_channel else "float64"
        fits = value.type().is_array() if field.by_channel else value.type().is_numeric() or value.type().is_boolean()
        if field.kind == "numeric" and not fits:
            wanted = "lists of numbers" if field.by_channel else "numbers"
            raise SpecError(messages.VIEW_TYPE(view=view.view, file=view.source, column=field.name, wanted=wanted))
        # Infinity counts as missing, because JSON can't express it. Ibis' isinf() is always false on Spark.
        value = value.cast(cast)
        if field.by_channel:
            # A missing value in a list is NaN, because Feast's online stores turn null into 0.0.
            value = value.map(lambda number: (number.abs() <= _LARGEST).ifelse(number, math.nan))
        elif field.kind == "numeric":
            value = (value.abs() <= _LARGEST).ifelse(value, ibis.null("float64"))
        values[field.name] = value
    rows = rows.filter(rows[view.key].notnull(), rows[view.timestamp].notnull())
    time = rows[view.timestamp].cast(_UTC)
    known = ibis.greatest(time, ibis.coalesce(rows[created].cast(_UTC), time))
    keys = {view.key: rows[view.key].cast("string"), "timestamp": time, "created_timestamp": known}
    return rows.select(**keys, **values)


# ---- rolling aggregates


def user_channel(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Count each user's touchpoints and clicks of the last 7 days in each channel.

    Each row has the counts of a user at the end of an hour in which a count has changed.
    """
    # One integer, touchpoints + 2**32 * clicks, sums both counts in one step.
    news = _as_it_becomes_known(touchpoints, spec)
    both = news.touchpoint + news.click * _CLICK
    counts = {f"both_{i}": (news.channel == name).ifelse(both, 0) for i, name in enumerate(spec.channels)}
    sums = _rolling(news, "user_id", counts, USER_DAYS * DAY_US)
    sums_of_both = [sums[name] for name in counts]
    return sums.select(
        "user_id",
        *_TIMES,
        uc_touchpoints=ibis.array([(count % _CLICK).cast("float64") for count in sums_of_both]),
        uc_clicks=ibis.array([((count - count % _CLICK) / _CLICK).cast("float64") for count in sums_of_both]),
    )


def campaign_stats(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Compute the number of touchpoints, the rates and the mean cost of each campaign over the last 24 hours.

    There is one row for each hour in which a value has changed. Rates and cost are null if there was no touchpoint.
    """
    news = _as_it_becomes_known(touchpoints.filter(touchpoints.campaign_id.notnull()), spec)
    counts = {
        "touchpoints": news.touchpoint,
        "clicks": news.click,
        "conversions": news.conversion,
        # Sum costs as integers, because a sum of floats depends on the order of addition.
        "cost": news.cost.floor().cast("int64"),
        "billionths": ((news.cost - news.cost.floor()) * _BILLION).round().cast("int64"),
    }
    sums = _rolling(news, "campaign_id", counts, CAMPAIGN_DAYS * DAY_US)
    divisor = sums.touchpoints.nullif(0).cast("float64")
    features = {
        "campaign_touchpoints": sums.touchpoints.cast("float64"),
        "campaign_click_rate": sums.clicks / divisor,
        "campaign_conversion_rate": sums.conversions / divisor,
        "campaign_cost": (sums.cost + sums.billionths / _BILLION) / divisor,
    }
    return sums.select("campaign_id", *_TIMES, **features)


def _as_it_becomes_known(touchpoints: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Return one row per touchpoint, and one per later click or conversion. A row counts from the time `known`."""
    later = [name for name in EVENTS if name in spec.timed]
    zero = ibis.literal(0, "int64")
    rows = touchpoints.select("user_id", "campaign_id", "channel", "known", "cost", *EVENTS, *map(outcome_time, later))
    news = rows.mutate(touchpoint=ibis.literal(1, "int64"), **dict.fromkeys(later, zero))
    for name in later:
        happened = rows.filter(rows[name] != 0, rows[outcome_time(name)].notnull())
        nothing_else = {"touchpoint": zero, "cost": ibis.literal(0.0), **{n: zero for n in EVENTS if n != name}}
        known = ibis.greatest(happened.known, happened[outcome_time(name)])
        news = news.union(happened.mutate(known=known, **nothing_else).select(*news.columns))
    return news


def _rolling(touchpoints: ibis.Table, key: str, values: dict[str, ibis.Value], period: int) -> ibis.Table:
    """Sum the values of each key over the last `period` microseconds, at the end of each hour with a change."""
    known = unix_micros(touchpoints.known)
    # The time since the start of the hour must not be negative, even before 1970.
    into = (known % HOUR_US + HOUR_US) % HOUR_US
    hourly = touchpoints.select(key, end=known - into + HOUR_US, **values)
    kinds = {name: hourly[name].type() for name in values}
    hourly = hourly.group_by(key, "end").aggregate(**{name: hourly[name].sum().cast(kinds[name]) for name in values})
    # Add each hour's values to a running total at the hour's end, and subtract them one `period` later.
    left = hourly.select(key, end=hourly.end + period, **{name: -hourly[name] for name in values})
    changes = hourly.union(left)
    so_far = ibis.range_window(group_by=key, order_by="end", preceding=None, following=0)
    sums = changes.select(key, "end", **{name: changes[name].sum().over(so_far).cast(kinds[name]) for name in values})
    end = timestamp_micros(sums.end)
    return sums.mutate(timestamp=end, created_timestamp=end)
