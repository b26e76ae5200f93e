"""The charts of the page of `mtorl data describe`: one message each, no title (the page's captions say it)."""

from __future__ import annotations

import math
from calendar import monthrange
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from features.describe.figures import PROPENSITY_BINS, QUANTILES, pause_edges
from mtorl.log.propensity import FLOOR
from mtorl.pages.charts import (
    BLUE,
    GREY,
    LOW,
    ORANGE,
    PALETTE,
    WIDE,
    Chart,
    bar,
    draw,
    heatmap,
    horizontal,
    marks,
    names_axis,
    rows_height,
    scatter,
    shares,
    vertical,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.describe.figures import ChannelFigures, Description, Rate

PLACES = 40  # of a journey that are drawn
_PAUSES = {"1 s": 1, "1 min": 60, "1 h": 3600, "1 day": 86_400, "30 days": 30 * 86_400, "1 year": 365 * 86_400}


def touchpoints(figures: Description) -> Chart:
    """Touchpoints by hour, day, week or month."""
    starts = sorted({start for start, _, _ in figures.periods})
    sums = dict.fromkeys(starts, 0)
    for start, _, rows in figures.periods:
        sums[start] += rows
    low, high = 0 if _gaps(starts, figures.period) else min(sums.values()), max(sums.values())
    html = draw(
        "touchpoints",
        [
            bar(
                x=starts,
                y=list(sums.values()),
                **_whole_periods(starts, figures.period, 0.92),
                marker_color=BLUE,
                hovertemplate="%{x}: %{y:,}<extra></extra>",
            )
        ],
        xaxis=_dates(starts, figures.period),
        yaxis={"title": "touchpoints", **_counts(high)},
    )
    return Chart(html, f"Touchpoints by {figures.period}: from {low:,} to {high:,}.")


def channel_shares(channels: Sequence[ChannelFigures]) -> Chart:
    """Share of touchpoints by channel, largest on top."""
    rows = sorted(channels, key=lambda channel: -channel.rows)
    return shares("channel-shares", [(row.channel, row.share) for row in rows], "Share of touchpoints")


def shares_over_time(figures: Description) -> Chart:
    """Channel shares of each period; the small channels are added up."""
    largest = sorted((channel for channel in figures.channels if channel.rows), key=lambda channel: -channel.rows)
    few = len(largest) <= len(PALETTE)
    names = [channel.channel for channel in (largest if few else largest[: len(PALETTE) - 1])]
    starts = sorted({start for start, _, _ in figures.periods})
    # No channel has the name None; one may well be called "others".
    rows: dict[str | None, dict[str, int]] = {name: dict.fromkeys(starts, 0) for name in names}
    if not few:
        rows[None] = dict.fromkeys(starts, 0)
    total = dict.fromkeys(starts, 0)
    for start, channel, count in figures.periods:
        rows[channel if channel in names else None][start] += count
        total[start] += count
    traces = [
        bar(
            x=starts,
            y=[counts[start] / total[start] for start in starts],
            name="others" if name is None else name if len(name) <= 18 else f"{name[:17]}…",
            **_whole_periods(starts, figures.period),
            marker_color=GREY if name is None else PALETTE[i],
            hovertemplate="%{y:.1%}<extra>" + (name or "others") + "</extra>",
        )
        for i, (name, counts) in enumerate(rows.items())
    ]
    html = draw(
        "shares-over-time",
        traces,
        height=330,
        margin={**WIDE, "t": 62 if len(traces) > 4 else 36},
        barmode="stack",
        hovermode="x unified",
        xaxis={**_dates(starts, figures.period), "nticks": 6},
        yaxis={"tickformat": ".0%", "range": [0, 1]},
    )
    return Chart(html, f"Channel shares by {figures.period}, {len(starts)} of them.")


def lengths(figures: Description) -> Chart:
    """Journeys of each length on two log axes; long lengths share a bar, which shows their mean."""
    classes: dict[tuple[int, int], int] = {}
    half, most, longest = figures.length_quantile(0.5), figures.length_quantile(0.95), figures.lengths[-1][0]
    for length, count in figures.lengths:
        low, high = _length_class(length)
        ends = low, min(high, longest)
        classes[ends] = classes.get(ends, 0) + count
    html = draw(
        "lengths",
        [
            bar(
                x=[math.log10(math.sqrt((low - 0.5) * (high + 0.5))) for low, high in classes],
                y=[count / (high - low + 1) for (low, high), count in classes.items()],
                width=[math.log10((high + 0.5) / (low - 0.5)) * 0.94 for low, high in classes],
                marker_color=BLUE,
                customdata=[
                    (f"{low:,}" if low == high else f"{low:,} to {high:,}", count)
                    for (low, high), count in classes.items()
                ],
                hovertemplate="%{customdata[0]} touchpoints: %{customdata[1]:,} journeys<extra></extra>",
            )
        ],
        shapes=[vertical(math.log10(half)), vertical(math.log10(most))],
        annotations=marks(
            [(math.log10(half), "median ", "right"), (math.log10(most), " 95%", "left")]
            if half < most
            else [(math.log10(half), "median, 95%", "center")]
        ),
        margin={**WIDE, "t": 30},
        xaxis={"title": "touchpoints in a journey", "showgrid": False, **_log_ticks(figures.lengths[0][0], longest)},
        yaxis={"title": "journeys of each length", "type": "log", "dtick": 1, "tickformat": ",~r"},
    )
    return Chart(
        html, f"Journey lengths: half have at most {half} touchpoints, 95% at most {most}, longest {longest:,}."
    )


def pauses(figures: Description) -> Chart:
    """Pauses between a user's touchpoints on a log axis, with the one that ends a journey marked."""
    ends = [pause_edges(bin) for bin, _ in figures.pauses]
    low = [math.log10(max(start, 10**-0.25)) for start, _ in ends]
    high = [math.log10(end) for _, end in ends]
    gap = math.log10(figures.spec["journey_gap_days"] * 86_400)
    html = draw(
        "pauses",
        [
            bar(
                x=[(a + b) / 2 for a, b in zip(low, high, strict=True)],
                y=[count for _, count in figures.pauses],
                width=[(b - a) * 0.94 for a, b in zip(low, high, strict=True)],
                marker_color=[ORANGE if a >= gap else BLUE for a in low],
                customdata=[f"{_seconds(a)} to {_seconds(b)}" for a, b in ends],
                hovertemplate="%{customdata}: %{y:,}<extra></extra>",
            )
        ],
        shapes=[vertical(gap)],
        annotations=marks([(gap, "a new journey", "right")]),
        margin={**WIDE, "t": 30},
        xaxis={
            "title": "time since the user's touchpoint before",
            "showgrid": False,
            "tickvals": [math.log10(value) for value in _PAUSES.values()],
            "ticktext": list(_PAUSES),
            "tickangle": 0,
            "range": [min(low) - 0.1, max(max(high), gap) + 0.35],
        },
        yaxis={"title": "touchpoints", **_counts(max(count for _, count in figures.pauses))},
    )
    return Chart(html, f"Pauses between touchpoints; {figures.long_pauses:,} are long enough to begin a new journey.")


def rates_by_channel(div: str, rows: Sequence[tuple[str, Rate]], overall: float, what: str) -> Chart:
    """A rate and its interval for each channel, against the overall one."""
    rows = [(name, rate) for name, rate in rows if rate.rows]
    rows.sort(key=lambda row: row[1].share)
    dots = scatter(
        x=[rate.share for _, rate in rows],
        y=[name for name, _ in rows],
        mode="markers",
        marker={"size": 9, "color": BLUE},
        error_x=_errors([rate for _, rate in rows]),
        customdata=[[rate.low, rate.high, rate.rows] for _, rate in rows],
        hovertemplate="%{y}: %{x:.2%} [%{customdata[0]:.2%}, %{customdata[1]:.2%}], %{customdata[2]:,} touchpoints"
        "<extra></extra>",
    )
    html = draw(
        div,
        [dots],
        height=rows_height(len(rows)) + 18,
        shapes=[vertical(overall)],
        annotations=marks([(overall, "all", "center")]),
        margin={**LOW, "t": 30},
        xaxis={"tickformat": _percent([rate for _, rate in rows]), "rangemode": "tozero", "nticks": 6},
        yaxis={**names_axis(), "range": [-0.6, len(rows) - 0.4]},
    )
    words = ", ".join(f"{name} {rate.share:.2%} [{rate.low:.2%}, {rate.high:.2%}]" for name, rate in rows[::-1])
    return Chart(html, f"{what} by channel with 95% intervals: {words}.")


def rates_by_place(div: str, rows: Sequence[tuple[int, Rate]], overall: float, what: str) -> Chart:
    """A rate and its interval at each place of a journey, against the overall one."""
    rows = rows[:PLACES]
    dots = scatter(
        x=[place for place, _ in rows],
        y=[rate.share for _, rate in rows],
        mode="markers",
        marker={"size": 6, "color": BLUE},
        error_y=_errors([rate for _, rate in rows]),
        customdata=[[rate.low, rate.high, rate.rows] for _, rate in rows],
        hovertemplate="place %{x}: %{y:.2%} [%{customdata[0]:.2%}, %{customdata[1]:.2%}], %{customdata[2]:,} rows"
        "<extra></extra>",
    )
    # A place that few journeys reach has an interval as wide as the picture; it may leave it so that the rest is read.
    sure = [rate.high for _, rate in rows if rate.high - rate.low < 0.2] or [1.0]
    html = draw(
        div,
        [dots],
        shapes=[horizontal(overall)],
        xaxis={"title": "place in the journey, 1 = first", "showgrid": False, "range": [0.3, max(len(rows), 5) + 0.7]},
        yaxis={"tickformat": _percent([rate for _, rate in rows]), "range": [0, 1.12 * max(sure)]},
    )
    first, last = rows[0][1], rows[-1][1]
    return Chart(html, f"{what} by place: {first.share:.2%} at the first, {last.share:.2%} at place {rows[-1][0]}.")


def propensities(figures: Description) -> Chart:
    """For each channel, how its touchpoints spread over propensities: the darker, the more."""
    names = [channel.channel for channel in figures.channels if channel.rows][::-1]
    share = {name: [0.0] * PROPENSITY_BINS for name in names}
    total = {name: sum(rows for channel, _, rows in figures.propensities if channel == name) for name in names}
    for channel, bin, rows in figures.propensities:
        share[channel][bin] = rows / total[channel]
    width = 1 / PROPENSITY_BINS
    html = draw(
        "propensities",
        [
            heatmap(
                x=[(bin + 0.5) * width for bin in range(PROPENSITY_BINS)],
                y=names,
                z=[share[name] for name in names],
                customdata=[
                    [f"{bin * width:.2f} to {(bin + 1) * width:.2f}" for bin in range(PROPENSITY_BINS)] for _ in names
                ],
                hovertemplate="%{y}, propensity %{customdata}: %{z:.1%} of its touchpoints<extra></extra>",
            )
        ],
        height=rows_height(len(names)) + 24,
        shapes=[vertical(FLOOR)],
        margin={**WIDE, "t": 12},
        xaxis={"title": "propensity of the logged channel", "range": [0, 1], "showgrid": False},
        yaxis=names_axis(),
    )
    return Chart(html, f"Propensities by channel; the smallest is {figures.propensity_low:.4g}.")


def costs(channels: Sequence[ChannelFigures], currency: str) -> Chart:
    """Cost of a channel's touchpoints: thin line 5 to 95%, thick line the middle half, dot the median."""
    known = (channel for channel in channels if channel.rows and not math.isnan(channel.cost))
    rows = sorted(known, key=lambda channel: channel.cost_quantiles[2])
    names = [row.channel for row in rows]
    spans: dict[str, dict[str, list[Any]]] = {name: {"x": [], "y": []} for name in ("thin", "thick")}
    for row in rows:
        p5, p25, _, p75, p95 = row.cost_quantiles
        for name, ends in (("thin", (p5, p95)), ("thick", (p25, p75))):
            spans[name]["x"] += [*ends, None]
            spans[name]["y"] += [row.channel, row.channel, None]
    still = {"mode": "lines", "hoverinfo": "skip"}
    traces = [
        scatter(**spans["thin"], **still, line={"color": GREY, "width": 2}),
        scatter(**spans["thick"], **still, line={"color": BLUE, "width": 8}),
        scatter(
            x=[row.cost_quantiles[2] for row in rows],
            y=names,
            mode="markers",
            marker={"size": 11, "color": "#ffffff", "line": {"color": BLUE, "width": 3}},
            cliponaxis=False,
            customdata=[[*row.cost_quantiles, row.cost, row.free] for row in rows],
            hovertemplate="%{y}: median %{x:.4g}, mean %{customdata[5]:.4g}<br>middle half %{customdata[1]:.4g} to "
            "%{customdata[3]:.4g}, 5 to 95%: %{customdata[0]:.4g} to %{customdata[4]:.4g}<br>free: %{customdata[6]:.1%}"
            "<extra></extra>",
        ),
    ]
    html = draw(
        "costs",
        traces,
        height=rows_height(len(rows)) + 24,
        xaxis={"title": f"cost of a touchpoint, {currency}", "rangemode": "tozero", "nticks": 6},
        yaxis={**names_axis(), "categoryorder": "array", "categoryarray": names, "range": [-0.6, len(rows) - 0.4]},
    )
    at = QUANTILES.index(0.5)
    words = ", ".join(f"{row.channel} {row.cost_quantiles[at]:.4g}" for row in rows[::-1])
    return Chart(html, f"Median cost of a touchpoint by channel: {words}.")


def _length_of(start: str, period: str) -> timedelta:
    moment = datetime.fromisoformat(start)
    if period == "month":
        return timedelta(days=monthrange(moment.year, moment.month)[1])
    return timedelta(**{f"{period}s": 1})


def _gaps(starts: Sequence[str], period: str) -> bool:
    """Whether some period between the first and the last has nothing."""
    ends = (datetime.fromisoformat(start) + _length_of(start, period) for start in starts[:-1])
    return any(end < datetime.fromisoformat(start) for end, start in zip(ends, starts[1:], strict=True))


def _whole_periods(starts: Sequence[str], period: str, filled: float = 1.0) -> dict[str, Any]:
    """Bars that begin with their period and end with it."""
    return {"offset": 0, "width": [_length_of(start, period).total_seconds() * 1000 * filled for start in starts]}


def _dates(starts: Sequence[str], period: str) -> dict[str, Any]:
    end = datetime.fromisoformat(starts[-1]) + _length_of(starts[-1], period)
    return {"type": "date", "showgrid": False, "tickangle": 0, "range": [starts[0], end.isoformat()]}


def _counts(highest: int) -> dict[str, Any]:
    small = {"dtick": 1} if highest <= 5 else {}
    return {"rangemode": "tozero", "tickformat": "~s" if highest >= 1000 else ",d", **small}


def _length_class(length: int) -> tuple[int, int]:
    """Smallest and largest length that share a bar: alone up to 15, then 16 bars to a factor of ten."""
    if length <= 15:
        return length, length
    step = math.floor(16 * math.log10(length / 15.5))
    low, high = (math.ceil(15.5 * 10 ** (side / 16)) for side in (step, step + 1))
    return low, high - 1


def _log_ticks(shortest: int, longest: int) -> dict[str, Any]:
    low, high = shortest - 0.5, max(longest, 4 * shortest) * 1.25
    leading = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [digit * 10**power for power in range(7) for digit in leading]
    return {
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:,}" for tick in ticks],
        "tickangle": 0,
        "range": [math.log10(0.95 * low), math.log10(high)],
    }


def _seconds(value: float) -> str:
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} s"


def _percent(rates: Sequence[Rate]) -> str:
    highest = max((rate.share for rate in rates), default=1.0)
    return ".0%" if highest >= 0.08 else ".1%" if highest >= 0.008 else ".2%"


def _errors(rates: Sequence[Rate]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [rate.high - rate.share for rate in rates],
        "arrayminus": [rate.share - rate.low for rate in rates],
        "thickness": 2,
        "width": 0,
        "color": BLUE,
    }
