"""Computes the numbers in the report of `mtorl data describe`.

Rates have 95 % Wilson intervals. The intervals are slightly too narrow, because touchpoints of a user are not
independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis
from scipy.stats import binomtest

from features import messages
from features.sequences.builder import canonical, steps
from mtorl.log.dataset import EVENTS, OUTCOMES
from mtorl.log.propensity import FLOOR
from mtorl.log.touchpoints import CREATED, LogError
from mtorl.runtime import progress

if TYPE_CHECKING:
    from features.engine import Engine
    from mtorl.log.dataset import DatasetSpec

Row = dict[str, Any]

PROPENSITY_BINS = 20
NO_CHANNEL = "(none)"
_DAY = 86_400.0  # s
# For logs of up to this many days, the width of a bar in the chart by time, in words and as Ibis' unit.
_PERIODS = ((2, "hour", "h"), (120, "day", "D"), (3 * 366, "week", "W"), (math.inf, "month", "M"))


@dataclass(frozen=True)
class Rate:
    """The rate of an event, which happened in `hits` of `rows` touchpoints, with the 95 % interval `low` to `high`."""

    hits: int
    rows: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, rows: int) -> Rate:
        """Return the rate of `hits` in `rows` with its Wilson interval, which is [0, 1] without rows."""
        if not rows:
            return cls(0, 0, math.nan, 0.0, 1.0)
        interval = binomtest(hits, rows).proportion_ci(method="wilson")
        return cls(hits, rows, hits / rows, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class ColumnFigures:
    """Statistics of one column of the log.

    Attributes:
        role: One of key, action, outcome, propensity, context and static.
        kind: One of text, time, numeric and categorical.
    """

    name: str
    role: str
    kind: str
    unit: str
    missing: int
    low: float | None = None
    mean: float | None = None
    high: float | None = None
    different: int | None = None


@dataclass(frozen=True)
class ChannelFigures:
    """Statistics of the touchpoints of one channel. `free` is the share of touchpoints whose cost is 0."""

    channel: str
    rows: int
    share: float
    click: Rate
    conversion: Rate
    revenue: float = math.nan
    cost: float = math.nan
    free: float = math.nan


@dataclass(frozen=True)
class PlaceFigures:
    """Statistics of the touchpoints at one position of a journey, such as all second touchpoints."""

    # 1 is the first touchpoint of a journey.
    place: int
    click: Rate
    conversion: Rate


@dataclass(frozen=True)
class Description:
    """All numbers that the report shows. `dataclasses.asdict` converts them to JSON types.

    Attributes:
        late_rows: Number of rows that arrived late. None if the log has no arrival times.
        propensity_rare: Number of rows with a propensity below `mtorl.log.propensity.FLOOR`.
    """

    spec: Row
    rows: int
    users: int
    one_touchpoint_users: int
    capped_users: int
    most_touchpoints: int
    late_rows: int | None
    first: str
    last: str
    columns: tuple[ColumnFigures, ...]
    channels: tuple[ChannelFigures, ...]
    places: tuple[PlaceFigures, ...]
    period: str
    periods: tuple[tuple[str, str, int], ...]
    propensity_rows: int
    propensity_low: float | None
    propensity_rare: int
    propensities: tuple[tuple[str, int, int], ...]
    quarantined: int = 0
    faults: tuple[str, ...] = ()

    @property
    def journeys(self) -> int:
        """Number of journeys."""
        return self.places[0].click.rows if self.places else 0

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Return the lengths of journeys, each with the number of journeys of exactly this length."""
        reach = [place.click.rows for place in self.places]
        ends = (now - after for now, after in zip(reach, [*reach[1:], 0], strict=True))
        return [(place.place, count) for place, count in zip(self.places, ends, strict=True) if count]

    def length_quantile(self, share: float) -> int:
        """Return the smallest n so that at least `share` of the journeys have at most n touchpoints."""
        lengths, counts = zip(*self.lengths, strict=True)
        return next(lengths[i] for i, seen in enumerate(accumulate(counts)) if seen >= share * self.journeys)

    def rate(self, event: str) -> Rate:
        """Return the rate of an event, "click" or "conversion", over all touchpoints."""
        return Rate.of(sum(getattr(channel, event).hits for channel in self.channels), self.rows)

    def column(self, name: str) -> ColumnFigures:
        """Return the figures of a column."""
        return next(column for column in self.columns if column.name == name)


def describe(engine: Engine, log_path: Path | str, spec: DatasetSpec) -> Description:
    """Compute the statistics of a canonical log.

    Raises:
        LogError: The log has no rows, or lacks a column of the data set.
    """
    log = engine.read(log_path)
    if missing := [name for name in spec.log_columns if name not in log.columns]:
        raise LogError(messages.MISSING_COLUMNS(file=log_path, dataset=spec.name, missing=missing, hints=()))
    # A column that contains only nulls may have any type.
    log = canonical(log, spec)
    total, users = _rows(_totals(log, spec), 0, "columns")[0], _rows(_users(log, spec.max_touchpoints), 1, "users")[0]
    if not total["rows"]:
        raise LogError(messages.NO_ROWS(file=log_path))
    named = log.mutate(channel=log.channel.fill_null(NO_CHANNEL))
    by_channel = {row["channel"]: row for row in _rows(_channels(named), 2, "channels")}
    days = (total["timestamp_high"] - total["timestamp_low"]).total_seconds() / _DAY
    period, unit = next((name, unit) for limit, name, unit in _PERIODS if days <= limit)
    periods = _rows(_periods(named, unit), 3, f"{period}s")
    propensities = _rows(_propensities(named), 4, "propensities")
    journeys = steps(log, spec).select("click", "conversion", place=ibis._.step + 1)
    places = _rows(journeys.group_by("place").aggregate(**_hits(journeys)).order_by("place"), 5, "journeys")
    progress.report(6, 6)
    return Description(
        spec=spec.to_dict(),
        rows=total["rows"],
        **users,
        late_rows=total.get("late_rows"),
        first=total["timestamp_low"].isoformat(),
        last=total["timestamp_high"].isoformat(),
        columns=tuple(_columns(total, spec)),
        channels=tuple(
            _channel(name, by_channel.get(name), total["rows"])
            for name in (*spec.channels, *sorted({*by_channel} - {*spec.channels}))
        ),
        places=tuple(
            PlaceFigures(row["place"], Rate.of(row["click"], row["rows"]), Rate.of(row["conversion"], row["rows"]))
            for row in places
        ),
        period=period,
        periods=tuple((row["start"].replace(tzinfo=UTC).isoformat(), row["channel"], row["rows"]) for row in periods),
        propensity_rows=total["rows"] - total["propensity_missing"],
        propensity_low=total["propensity_low"],
        propensity_rare=total["propensity_rare"],
        propensities=tuple((row["channel"], row["bin"], row["rows"]) for row in propensities),
    )


def _rows(table: ibis.Table, turn: int, note: str) -> list[Row]:
    progress.report(turn, 6, note)
    rows: list[Row] = table.to_pyarrow().to_pylist()
    return rows


def _totals(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Compute statistics of all columns as one row, with columns such as `cost_missing` and `cost_mean`."""
    figures: dict[str, Any] = {"rows": log.count()}
    own = (*spec.context, *spec.static, *spec.outcomes)
    names = {"campaign_id", "channel", *(column.name for column in own if column.kind == "categorical")}
    for name in spec.log_columns:
        column = log[name]
        figures[f"{name}_missing"] = column.isnull().sum()
        if name in names:
            # There may be few distinct names, so even an error of one would be visible.
            figures[f"{name}_different"] = column.nunique()
        elif name != "user_id":
            figures |= {f"{name}_low": column.min(), f"{name}_high": column.max()}
            if name != "timestamp":
                figures[f"{name}_mean"] = column.mean()
    figures["propensity_rare"] = (log.propensity < FLOOR).sum().fill_null(0)
    if CREATED in log.columns:
        figures["late_rows"] = (log[CREATED] > log.timestamp).sum()
    return log.aggregate(**figures)


def _users(log: ibis.Table, most: int) -> ibis.Table:
    users = log.group_by("user_id").aggregate(touchpoints=log.count())
    return users.aggregate(
        users=users.count(),
        one_touchpoint_users=(users.touchpoints == 1).sum(),
        capped_users=(users.touchpoints > most).sum(),
        most_touchpoints=users.touchpoints.max(),
    )


def _channels(log: ibis.Table) -> ibis.Table:
    return log.group_by("channel").aggregate(
        **_hits(log), revenue=log.revenue.mean(), cost=log.cost.mean(), free=(log.cost == 0).sum().fill_null(0)
    )


def _hits(log: ibis.Table) -> dict[str, ibis.Value]:
    events = {name: log[name].sum().fill_null(0) for name in EVENTS}
    return {"rows": log.count(), **events}


def _periods(log: ibis.Table, unit: str) -> ibis.Table:
    log = log.filter(log.timestamp.notnull())
    start = log.timestamp.truncate(unit)
    return log.group_by(start=start, channel=log.channel).aggregate(rows=log.count()).order_by("start", "channel")


def _propensities(log: ibis.Table) -> ibis.Table:
    known = log.filter(log.propensity.notnull())
    bin = (known.propensity * PROPENSITY_BINS).floor().cast("int64").clip(0, PROPENSITY_BINS - 1)
    return known.group_by(channel=known.channel, bin=bin).aggregate(rows=known.count()).order_by("channel", "bin")


def _columns(total: Row, spec: DatasetSpec) -> Iterator[ColumnFigures]:
    labels = {str(name): label for name, label in spec.outcome_labels.items()}
    described = {
        "user_id": ("key", "text", ""),
        "timestamp": ("key", "time", "UTC"),
        "campaign_id": ("key", "text", ""),
        "channel": ("action", "categorical", ""),
        **{name: ("outcome", "numeric", labels.get(name, "")) for name in OUTCOMES},
        "propensity": ("propensity", "numeric", "probability of the logged channel"),
    }
    for role, columns in (("context", spec.context), ("static", spec.static), ("outcome", spec.outcomes)):
        described |= {column.name: (role, str(column.kind), column.unit) for column in columns}
    for name in spec.log_columns:
        role, kind, unit = described[name]
        numbers = {key: total.get(f"{name}_{key}") for key in ("low", "mean", "high")} if kind == "numeric" else {}
        yield ColumnFigures(
            name, role, kind, unit, total[f"{name}_missing"], **numbers, different=total.get(f"{name}_different")
        )


def _channel(name: str, row: Row | None, rows: int) -> ChannelFigures:
    if row is None:
        return ChannelFigures(name, 0, 0.0, Rate.of(0, 0), Rate.of(0, 0))
    own, rest = row["rows"], {what: row[what] for what in ("revenue", "cost") if row[what] is not None}
    click, conversion = Rate.of(row["click"], own), Rate.of(row["conversion"], own)
    return ChannelFigures(name, own, own / rows, click, conversion, **rest, free=row["free"] / own)
