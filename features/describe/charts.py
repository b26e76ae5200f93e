"""Draws the charts in the report of `mtorl data describe`. The caption of each chart states its main result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from features.describe.figures import PROPENSITY_BINS
from mtorl.log.propensity import FLOOR
from mtorl.pages import charts as plot
from mtorl.pages.charts import Chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.describe.figures import Description, Rate

# Largest number of positions in a journey that a chart shows.
PLACES = 40
# Width of a bar in a chart by time -> pandas' name for this frequency.
_FREQUENCY = {"hour": "h", "day": "D", "week": "W-MON", "month": "MS"}
_PERCENT = ".2~%"


def touchpoints(figures: Description) -> Chart:
    """Draw the touchpoints of each channel by hour, day, week or month, as stacked bars."""
    largest = sorted((channel for channel in figures.channels if channel.rows), key=lambda channel: -channel.rows)
    few = len(largest) <= len(plot.PALETTE)
    table = _by_period(figures, [channel.channel for channel in (largest if few else largest[: len(plot.PALETTE) - 1])])
    traces = []
    for i, (name, rows) in enumerate(table.items()):
        # The table uses the name "" for all small channels together, because a real channel may be called "others".
        whole = str(name or "others")
        traces.append(
            plot.bar(
                x=list(rows.index),
                y=rows.to_list(),
                name=whole if len(whole) <= 18 else f"{whole[:17]}…",
                marker_color=plot.PALETTE[i] if name else plot.GREY,
                hovertemplate="%{y:,}<extra>" + whole + "</extra>",
            )
        )
    html = plot.draw(
        "touchpoints",
        traces,
        height=330,
        margin={**plot.WIDE, "t": 62 if len(traces) > 4 else 36},
        barmode="stack",
        bargap=0.08,
        hovermode="x unified",
        xaxis={"type": "date", "showgrid": False, "tickangle": 0, "nticks": 6},
        yaxis={"title": "touchpoints", "rangemode": "tozero", "tickformat": ",~r", "automargin": True},
    )
    sums = table.sum(axis=1)
    return Chart(html, f"Touchpoints by {figures.period} and channel: from {sums.min():,} to {sums.max():,}.")


def lengths(figures: Description) -> Chart:
    """Draw the share of journeys with at least n touchpoints, for each n. Both axes are logarithmic."""
    half, most, longest = figures.length_quantile(0.5), figures.length_quantile(0.95), figures.lengths[-1][0]
    reach = [place.click.rows for place in figures.places]
    trace = plot.scatter(
        x=[place.place for place in figures.places],
        y=[journeys / figures.journeys for journeys in reach],
        mode="lines+markers",
        line={"color": plot.BLUE, "width": 2.2, "shape": "vh"},
        marker={"size": 4},
        customdata=reach,
        hovertemplate="%{x} touchpoints or more: %{y:.2~%}, %{customdata:,} journeys<extra></extra>",
    )
    words = [(half, "median ", "right"), (most, " 95%", "left")] if half < most else [(half, "median, 95%", "center")]
    html = plot.draw(
        "lengths",
        [trace],
        shapes=[plot.vertical(half), plot.vertical(most)],
        annotations=plot.marks([(math.log10(length), text, side) for length, text, side in words]),
        margin={**plot.WIDE, "t": 30},
        xaxis={"title": "touchpoints in a journey", "type": "log", "tickformat": ",~r", "showgrid": False},
        yaxis={"title": "journeys of at least that length", "type": "log", "dtick": 1, "tickformat": "~%"},
    )
    return Chart(
        html, f"Journey lengths: half have at most {half} touchpoints, 95% at most {most}, longest {longest:,}."
    )


def rates_by_channel(div: str, rows: Sequence[tuple[str, Rate]], overall: float, what: str) -> Chart:
    """Draw the rate of an event in each channel with its 95 % interval, and a line at the overall rate."""
    rows = sorted((row for row in rows if row[1].rows), key=lambda row: row[1].share)
    html = plot.draw(
        div,
        [_dots("y", "x", rows, size=9)],
        height=plot.rows_height(len(rows)) + 18,
        shapes=[plot.vertical(overall)],
        annotations=plot.marks([(overall, "all", "center")]),
        margin={**plot.LOW, "t": 30},
        xaxis={"tickformat": _PERCENT, "rangemode": "tozero", "nticks": 6},
        yaxis={**plot.names_axis(), "range": [-0.6, len(rows) - 0.4]},
    )
    words = ", ".join(f"{name} {rate.share:.2%} [{rate.low:.2%}, {rate.high:.2%}]" for name, rate in rows[::-1])
    return Chart(html, f"{what} by channel with 95% intervals: {words}.")


def rates_by_place(div: str, rows: Sequence[tuple[int, Rate]], overall: float, what: str) -> Chart:
    """Draw the rate of an event at each position of a journey with its 95 % interval, and the overall rate."""
    rows = rows[:PLACES]
    # Cut off the last positions: they have few journeys, so their wide intervals would hide the other positions.
    sure = [rate.high for _, rate in rows if rate.high - rate.low < 0.2] or [1.0]
    html = plot.draw(
        div,
        [_dots("x", "y", rows, size=6)],
        shapes=[plot.horizontal(overall)],
        xaxis={"title": "position in journey (1: first)", "showgrid": False, "range": [0.3, max(len(rows), 5) + 0.7]},
        yaxis={"tickformat": _PERCENT, "range": [0, 1.12 * max(sure)]},
    )
    first, last = rows[0][1], rows[-1][1]
    return Chart(html, f"{what} by position: {first.share:.2%} at 1, {last.share:.2%} at {rows[-1][0]}.")


def propensities(figures: Description) -> Chart:
    """Draw the distribution of propensities in each channel as a heatmap."""
    table = pd.DataFrame(figures.propensities, columns=["channel", "bin", "rows"])
    table = table.pivot(index="channel", columns="bin", values="rows").fillna(0)
    names = [channel.channel for channel in figures.channels if channel.channel in table.index][::-1]
    table = table.div(table.sum(axis=1), axis=0).reindex(index=names, columns=range(PROPENSITY_BINS), fill_value=0)
    width = 1 / PROPENSITY_BINS
    spans = [f"{place * width:.2f} to {(place + 1) * width:.2f}" for place in range(PROPENSITY_BINS)]
    cells = {
        "type": "heatmap",
        "x": [(place + 0.5) * width for place in range(PROPENSITY_BINS)],
        "y": names,
        "z": table.to_numpy().tolist(),
        "customdata": [spans] * len(names),
        "hovertemplate": "%{y}, propensity %{customdata}: %{z:.1%} of its touchpoints<extra></extra>",
        "colorscale": [[0, "rgba(63, 127, 217, 0)"], [1, "rgba(63, 127, 217, 1)"]],
        **{"showscale": False, "xgap": 1, "ygap": 3, "zmin": 0},
    }
    html = plot.draw(
        "propensities",
        [cells],
        height=plot.rows_height(len(names)) + 24,
        shapes=[plot.vertical(FLOOR)],
        xaxis={"title": "propensity of the logged channel", "range": [0, 1], "showgrid": False},
        yaxis=plot.names_axis(),
    )
    return Chart(html, f"Propensities by channel; the smallest is {figures.propensity_low:.4g}.")


def _by_period(figures: Description, channels: Sequence[str]) -> pd.DataFrame:
    """Count the touchpoints of each channel in each period. The column "" adds up all other channels."""
    rows = pd.DataFrame(figures.periods, columns=["start", "channel", "rows"])
    rows["start"] = pd.to_datetime(rows["start"])
    rows["channel"] = rows["channel"].where(rows["channel"].isin(channels), "")
    table = rows.pivot_table(index="start", columns="channel", values="rows", aggfunc="sum", fill_value=0)
    ordered = [name for name in (*channels, "") if name in table.columns]
    table = table[ordered].asfreq(_FREQUENCY[figures.period], fill_value=0)
    return table.set_index(table.index.map(lambda start: start.isoformat()))


def _dots(names: str, values: str, rows: Sequence[tuple[Any, Rate]], size: int) -> Any:
    """Return a Plotly trace that shows each rate as a dot, with its 95 % interval as a line."""
    rates = [rate for _, rate in rows]
    errors = {
        **{"type": "data", "symmetric": False, "thickness": 2, "width": 0, "color": plot.BLUE},
        "array": [rate.high - rate.share for rate in rates],
        "arrayminus": [rate.share - rate.low for rate in rates],
    }
    return plot.scatter(
        **{names: [name for name, _ in rows], values: [rate.share for rate in rates], f"error_{values}": errors},
        mode="markers",
        marker={"size": size, "color": plot.BLUE},
        customdata=[[rate.low, rate.high, rate.rows] for rate in rates],
        hovertemplate=f"%{{{names}}}: %{{{values}:.2%}} "
        "[%{customdata[0]:.2%}, %{customdata[1]:.2%}], %{customdata[2]:,} touchpoints<extra></extra>",
    )
