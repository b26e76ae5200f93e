"""Computes the figures behind the page of `mtorl data describe`.

    with open_engine() as engine:
        description = describe(engine, "touchpoints.parquet", spec)
    page.render(description, "page.html")

Every figure is an aggregate that the engine computes, so only small tables reach Python. Intervals are Wilson's, at
95 %; they take touchpoints for independent, which those of one user are not quite, so they are somewhat too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ibis

from features.engine import unix_micros
from features.sequences.builder import canonical, steps
from mtorl.log.dataset import OUTCOMES
from mtorl.log.propensity import FLOOR
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from features.engine import Engine
    from mtorl.log.dataset import DatasetSpec

Row = dict[str, Any]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the cost of a channel; estimated by a sketch, so memory stays bounded
PROPENSITY_BINS = 20  # of equal width, from 0 to 1
NO_CHANNEL = "(none)"
PAUSE_BINS = 4  # to a factor of ten
_DAY = 86_400.0  # s
_PERIODS = ((2, "hour", "h"), (120, "day", "D"), (3 * 366, "week", "W"), (math.inf, "month", "M"))  # up to so many days


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval."""

    hits: int
    rows: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class ColumnFigures:
    """One column of the log; the bounds and the mean are a number's, the count of different values a name's."""

    name: str
    role: str  # key, action, outcome, propensity, context, static
    kind: str  # text, time, numeric, categorical
    unit: str
    missing: int  # rows
    low: float | None = None
    mean: float | None = None
    high: float | None = None
    different: int | None = None


@dataclass(frozen=True)
class ChannelFigures:
    """One channel's touchpoints."""

    channel: str
    rows: int
    share: float
    click: Rate
    conversion: Rate
    revenue: float  # mean
    cost: float  # mean
    free: float  # share of touchpoints that cost nothing
    cost_quantiles: tuple[float, ...]  # see QUANTILES


@dataclass(frozen=True)
class PlaceFigures:
    """The touchpoints at one place of their journeys, such as all second ones."""

    place: int  # 1 = first
    click: Rate
    conversion: Rate


@dataclass(frozen=True)
class Description:
    """Everything that the page shows; `dataclasses.asdict` makes it JSON."""

    spec: Row  # the data set description
    rows: int
    users: int
    one_touchpoint_users: int
    capped_users: int  # with more than spec.max_touchpoints
    most_touchpoints: int  # of one user
    late_rows: int | None  # that arrived after they happened; None: the log does not tell
    first: str  # ISO time
    last: str
    columns: tuple[ColumnFigures, ...]
    channels: tuple[ChannelFigures, ...]
    places: tuple[PlaceFigures, ...]
    period: str  # hour, day, week or month
    periods: tuple[tuple[str, str, int], ...]  # start, channel, touchpoints
    propensity_rows: int  # with a propensity
    propensity_low: float | None  # the smallest
    propensity_rare: int  # rows below mtorl.log.propensity.FLOOR
    propensities: tuple[tuple[str, int, int], ...]  # channel, bin, touchpoints
    pauses: tuple[tuple[int | None, int], ...]  # bin (None: under a second), number; see `pause_edges`
    long_pauses: int  # that end a journey
    quarantined: int = 0  # faulty rows that ingestion left out
    faults: tuple[str, ...] = ()  # what was wrong with them

    @property
    def journeys(self) -> int:
        """Number of journeys."""
        return self.places[0].click.rows if self.places else 0

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(length, journeys of that length); as many journeys end at a place as have no next one."""
        reach = [place.click.rows for place in self.places]
        ends = (now - after for now, after in zip(reach, [*reach[1:], 0], strict=True))
        return [(place.place, count) for place, count in zip(self.places, ends, strict=True) if count]

    def length_quantile(self, share: float) -> int:
        """The smallest length that so large a share of the journeys does not exceed."""
        lengths, counts = zip(*self.lengths, strict=True)
        return next(lengths[i] for i, seen in enumerate(accumulate(counts)) if seen >= share * self.journeys)

    @property
    def click(self) -> Rate:
        """Share of all touchpoints with a click."""
        return rate(sum(channel.click.hits for channel in self.channels), self.rows)

    @property
    def conversion(self) -> Rate:
        """Share of all touchpoints with a conversion."""
        return rate(sum(channel.conversion.hits for channel in self.channels), self.rows)

    def column(self, name: str) -> ColumnFigures:
        """The figures of a column."""
        return next(column for column in self.columns if column.name == name)


def rate(hits: int, rows: int) -> Rate:
    """A share with Wilson's interval; without rows the interval is all of [0, 1]."""
    if not rows:
        return Rate(0, 0, math.nan, 0.0, 1.0)
    z = 1.959964
    share, spread = hits / rows, z * z / rows
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # At 0 and 1 the interval touchpoints the share; rounding must not put the share outside.
    return Rate(hits, rows, share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share))


def pause_edges(bin: int | None) -> tuple[float, float]:
    """From and to, in seconds, of a bin of pauses."""
    return (0.0, 1.0) if bin is None else (10 ** (bin / PAUSE_BINS), 10 ** ((bin + 1) / PAUSE_BINS))


def describe(engine: Engine, log_path: Path | str, spec: DatasetSpec) -> Description:
    """Compute the figures of a canonical log, or of any Parquet with its columns, such as the steps of a window store.

    A log without rows or without a column is a LogError.
    """
    log = engine.read(log_path)
    if missing := [name for name in spec.log_columns if name not in log.columns]:
        raise LogError(f"{log_path}: not a canonical log of {spec.name!r}; it lacks {', '.join(missing)}")
    log = canonical(log, spec)  # a column of nulls may have any type

    def run(turn: int, table: ibis.Table, note: str) -> list[Row]:
        progress.report(turn, 7, note)
        frame: pd.DataFrame = engine.connection.execute(table)
        return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]

    [total] = run(0, _totals(log, spec), "columns")
    if not total["rows"]:
        raise LogError(f"{log_path}: the log has no rows")
    [users] = run(1, _users(log, spec.max_touchpoints), "users")
    named = log.mutate(channel=log.channel.fill_null(NO_CHANNEL))
    channels = run(2, _channels(named), "channels")
    days = (total["timestamp_high"] - total["timestamp_low"]).total_seconds() / _DAY
    period, unit = next((name, unit) for limit, name, unit in _PERIODS if days <= limit)
    periods = run(3, _periods(named, unit), f"{period}s")
    with_propensity = total["rows"] - total["propensity_missing"]
    propensities = run(4, _propensities(named), "propensities") if with_propensity else []
    journeys = with_pauses(log, spec)
    places = run(5, _places(journeys), "journeys")
    pauses = run(6, _pauses(journeys), "pauses")
    progress.report(7, 7)
    order = {channel: place for place, channel in enumerate(spec.channels)}
    by_channel = {row["channel"]: row for row in channels}
    names = sorted({*order, *by_channel}, key=lambda name: (order.get(name, len(order)), name))
    return Description(
        spec=spec.to_dict(),
        rows=total["rows"],
        **users,
        late_rows=total.get("late_rows"),
        first=total["timestamp_low"].isoformat(),
        last=total["timestamp_high"].isoformat(),
        columns=tuple(_column(total, spec)),
        channels=tuple(_channel(name, by_channel.get(name), total["rows"]) for name in names),
        places=tuple(
            PlaceFigures(row["place"], rate(row["click"], row["rows"]), rate(row["conversion"], row["rows"]))
            for row in places
        ),
        period=period,
        periods=tuple((row["start"].isoformat(), row["channel"], row["rows"]) for row in periods),
        propensity_rows=with_propensity,
        propensity_low=total["propensity_low"],
        propensity_rare=total["propensity_rare"],
        propensities=tuple(sorted((row["channel"], row["bin"], row["rows"]) for row in propensities)),
        pauses=tuple(sorted(((row["bin"], row["rows"]) for row in pauses), key=lambda row: pause_edges(row[0]))),
        long_pauses=sum(row["long"] for row in pauses),
    )


def with_pauses(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """Touchpoints: `place` in the journey, from 1; `pause` since the one before, s; whether it `breaks` a journey."""
    placed = steps(log, spec)
    moment = unix_micros(placed.timestamp)
    pause = (moment - moment.lag().over(ibis.window(group_by="user_id", order_by="timestamp"))) / 1e6
    breaks = ((placed.step == 0) & pause.notnull()).cast("int64")
    return placed.select("click", "conversion", place=placed.step + 1, pause=pause, breaks=breaks)


def _plain(value: Any) -> Any:
    """A value of a pandas frame as Python's own type; null is None, a time has its zone."""
    if isinstance(value, datetime):  # Spark's have no zone; both engines work in UTC
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "__len__"):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if value != value else int(value) if float(value).is_integer() else value


def _totals(log: ibis.Table, spec: DatasetSpec) -> ibis.Table:
    """One row: what is missing in each column, and how far its values reach."""
    figures: dict[str, Any] = {"rows": log.count()}
    for name in spec.log_columns:
        column = log[name]
        figures[f"{name}_missing"] = column.isnull().sum()
        if name in _names(spec):
            figures[f"{name}_different"] = column.nunique()  # a sketch of few names may miss one
        elif name != "user_id":
            figures |= {f"{name}_low": column.min(), f"{name}_high": column.max()}
            if name != "timestamp":
                figures[f"{name}_mean"] = column.mean()
    figures["propensity_rare"] = (log.propensity < FLOOR).sum().fill_null(0)
    if "created_timestamp" in log.columns:
        figures["late_rows"] = (log.created_timestamp > log.timestamp).sum()
    return log.aggregate(**figures)


def _names(spec: DatasetSpec) -> set[str]:
    """Columns of names; of user ids the exact number is counted elsewhere."""
    own = (*spec.context, *spec.static, *spec.outcomes)
    return {"campaign_id", "channel", *(column.name for column in own if column.kind == "categorical")}


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
        rows=log.count(),
        click=log.click.sum().fill_null(0),
        conversion=log.conversion.sum().fill_null(0),
        revenue=log.revenue.mean(),
        cost=log.cost.mean(),
        free=(log.cost == 0).sum().fill_null(0),
        cost_quantiles=log.cost.approx_quantile(list(QUANTILES)),
    )


def _periods(log: ibis.Table, unit: str) -> ibis.Table:
    log = log.filter(log.timestamp.notnull())
    start = log.timestamp.truncate(unit)
    return log.group_by(start=start, channel=log.channel).aggregate(rows=log.count()).order_by("start", "channel")


def _propensities(log: ibis.Table) -> ibis.Table:
    known = log.filter(log.propensity.notnull())
    bin = (known.propensity * PROPENSITY_BINS).floor().cast("int64").clip(0, PROPENSITY_BINS - 1)
    return known.group_by(channel=known.channel, bin=bin).aggregate(rows=known.count())


def _places(journeys: ibis.Table) -> ibis.Table:
    return (
        journeys.group_by("place")
        .aggregate(
            rows=journeys.count(),
            click=journeys.click.sum().fill_null(0),
            conversion=journeys.conversion.sum().fill_null(0),
        )
        .order_by("place")
    )


def _pauses(journeys: ibis.Table) -> ibis.Table:
    later = journeys.filter(journeys.pause.notnull())
    long = later.pause >= 1
    bin = ibis.ifelse(long, (later.pause.nullif(0).log10() * PAUSE_BINS).floor().cast("int64"), ibis.null("int64"))
    return later.group_by(bin=bin).aggregate(rows=later.count(), long=later.breaks.sum())


def _column(total: Row, spec: DatasetSpec) -> Iterable[ColumnFigures]:
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


def _channel(name: str, row: Mapping[str, Any] | None, rows: int) -> ChannelFigures:
    if row is None:
        nan = math.nan
        return ChannelFigures(name, 0, 0.0, rate(0, 0), rate(0, 0), nan, nan, nan, (nan,) * len(QUANTILES))
    own = row["rows"]
    return ChannelFigures(
        channel=name,
        rows=own,
        share=own / rows,
        click=rate(row["click"], own),
        conversion=rate(row["conversion"], own),
        revenue=math.nan if row["revenue"] is None else row["revenue"],
        cost=math.nan if row["cost"] is None else row["cost"],
        free=row["free"] / own,
        cost_quantiles=tuple(map(float, row["cost_quantiles"] or (math.nan,) * len(QUANTILES))),
    )
