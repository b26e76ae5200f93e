"""Computes the figures of the report of `mtorl data describe`.

    with open_engine() as engine:
        description = describe(engine, "touchpoints.parquet", spec)
    page.render(description, "page.html")

Every figure is an aggregate that the engine computes, so only small tables reach Python. The 95 % intervals are
Wilson's. They treat touchpoints as independent. The touchpoints of one user are not quite independent, so the intervals
are slightly too narrow.
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

PROPENSITY_BINS = 20  # bins of equal width from 0 to 1
NO_CHANNEL = "(none)"
_DAY = 86_400.0  # s
_PERIODS = ((2, "hour", "h"), (120, "day", "D"), (3 * 366, "week", "W"), (math.inf, "month", "M"))  # most days, name


@dataclass(frozen=True)
class Rate:
    """The share `hits / rows` with its 95 % confidence interval."""

    hits: int
    rows: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, rows: int) -> Rate:
        """Return a share with Wilson's interval; without rows, the interval is [0, 1]."""
        if not rows:
            return cls(0, 0, math.nan, 0.0, 1.0)
        interval = binomtest(hits, rows).proportion_ci(method="wilson")
        return cls(hits, rows, hits / rows, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class ColumnFigures:
    """One column of the log; numeric columns have bounds and a mean, name columns a count of different values."""

    name: str
    role: str  # key, action, outcome, propensity, context, static
    kind: str  # text, time, numeric, categorical
    unit: str
    missing: int  # rows without a value
    low: float | None = None
    mean: float | None = None
    high: float | None = None
    different: int | None = None


@dataclass(frozen=True)
class ChannelFigures:
    """The figures of one channel's touchpoints."""

    channel: str
    rows: int
    share: float
    click: Rate
    conversion: Rate
    revenue: float = math.nan  # mean
    cost: float = math.nan  # mean
    free: float = math.nan  # share of touchpoints that cost nothing


@dataclass(frozen=True)
class PlaceFigures:
    """The touchpoints at one position of their journeys, such as all second touchpoints."""

    place: int  # 1 = first
    click: Rate
    conversion: Rate


@dataclass(frozen=True)
class Description:
    """Everything that the report shows; `dataclasses.asdict` converts it for JSON."""

    spec: Row  # the data set description
    rows: int
    users: int
    one_touchpoint_users: int
    capped_users: int  # users with more than spec.max_touchpoints
    most_touchpoints: int  # the largest number of touchpoints of one user
    late_rows: int | None  # rows that arrived after their time; None if the log has no arrival times
    first: str  # ISO time
    last: str
    columns: tuple[ColumnFigures, ...]
    channels: tuple[ChannelFigures, ...]
    places: tuple[PlaceFigures, ...]
    period: str  # hour, day, week or month
    periods: tuple[tuple[str, str, int], ...]  # start, channel, touchpoints
    propensity_rows: int  # rows with a propensity
    propensity_low: float | None  # the smallest propensity
    propensity_rare: int  # rows below mtorl.log.propensity.FLOOR
    propensities: tuple[tuple[str, int, int], ...]  # channel, bin, touchpoints
    quarantined: int = 0  # faulty rows that ingestion left out
    faults: tuple[str, ...] = ()  # faults of the quarantined rows

    @property
    def journeys(self) -> int:
        """Number of journeys."""
        return self.places[0].click.rows if self.places else 0

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Return each length with the number of journeys whose last touchpoint is at that position."""
        reach = [place.click.rows for place in self.places]
        ends = (now - after for now, after in zip(reach, [*reach[1:], 0], strict=True))
        return [(place.place, count) for place, count in zip(self.places, ends, strict=True) if count]

    def length_quantile(self, share: float) -> int:
        """Return the smallest length that at least this share of the journeys does not exceed."""
        lengths, counts = zip(*self.lengths, strict=True)
        return next(lengths[i] for i, seen in enumerate(accumulate(counts)) if seen >= share * self.journeys)

    def rate(self, event: str) -> Rate:
        """Return the share of all touchpoints that have the event: "click" or "conversion"."""
        return Rate.of(sum(getattr(channel, event).hits for channel in self.channels), self.rows)

    def column(self, name: str) -> ColumnFigures:
        """Return the figures of a column."""
        return next(column for column in self.columns if column.name == name)


def describe(engine: Engine, log_path: Path | str, spec: DatasetSpec) -> Description:
    """Compute the figures of a canonical log, or of other Parquet with its columns, such as steps of a windows folder.

    Raises a LogError if the log has no rows or lacks a column.
    """
    log = engine.read(log_path)
    if missing := [name for name in spec.log_columns if name not in log.columns]:
        raise LogError(messages.MISSING_COLUMNS(file=log_path, dataset=spec.name, missing=missing, hints=()))
    log = canonical(log, spec)  # a column of nulls may have any type
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
    """Return one row: number of missing values, minimum and maximum of each column."""
    figures: dict[str, Any] = {"rows": log.count()}
    own = (*spec.context, *spec.static, *spec.outcomes)
    names = {"campaign_id", "channel", *(column.name for column in own if column.kind == "categorical")}
    for name in spec.log_columns:
        column = log[name]
        figures[f"{name}_missing"] = column.isnull().sum()
        if name in names:
            figures[f"{name}_different"] = column.nunique()  # exact, because approximate counts may miss a name
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
