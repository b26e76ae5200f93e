"""The charts of the run report: few colours, one message each, no title (the page's captions say it).

Every function returns an HTML fragment; plotly.js itself is put into the page once by `report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtorl.evaluation.budget_curve import RULES

INK, MUTED, RULE = "#1c2733", "#5f6c7b", "#e4e8ed"
CHALLENGER, INCUMBENT, ALARM, GOOD = "#2457a7", "#9aa5b1", "#c2410c", "#2f7d4f"
BAND = "rgba(36, 87, 167, 0.14)"
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Row = Mapping[str, Any]


def javascript() -> str:
    """plotly.js, to be inlined once."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def channel_shares(channels: Sequence[Row]) -> str:
    """Share of touchpoints by channel, largest on top."""
    rows = list(reversed(channels))
    return _draw(
        "chart-channel-shares",
        [
            _bar(
                x=[row["share"] for row in rows],
                y=[row["channel"] for row in rows],
                orientation="h",
                marker_color=CHALLENGER,
                text=[f"{row['share']:.1%}" for row in rows],
                hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            )
        ],
        height=44 + 34 * len(rows),
        margin={"l": 56, "r": 16, "t": 8, "b": 24},
        xaxis={"tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"showgrid": False, "automargin": True},
    )


def journey_lengths(journeys: Sequence[Row], longest: int) -> str:
    """Number of users by number of touchpoints; the last bar holds all longer journeys."""
    lengths = [row["length"] for row in journeys]
    ticks = [tick for tick in (1, 5, 10, 15, 20, 25) if tick <= max(lengths)]
    labels = [str(tick) for tick in ticks]
    if longest in lengths:
        ticks, labels = [*ticks, longest], [*labels, f"{longest}+"]
    return _draw(
        "chart-journey-lengths",
        [
            _bar(
                x=lengths,
                y=[row["users"] for row in journeys],
                marker_color=INCUMBENT,
                hovertemplate="%{x} touchpoints: %{y:,} users<extra></extra>",
            )
        ],
        xaxis={"title": "touchpoints of a user", "tickvals": ticks, "ticktext": labels, "showgrid": False},
        yaxis={"title": "users", "tickformat": ",d", "rangemode": "tozero"},
        bargap=0.15,
    )


def training(history: Sequence[Row], best_epoch: int | None) -> str:
    """Loss by epoch on training and validation users."""
    epochs = [row["epoch"] for row in history]
    traces = [
        _line("training users", epochs, [row.get("train_loss") for row in history], INCUMBENT),
        _line("validation users", epochs, [row.get("val_loss") for row in history], CHALLENGER),
    ]
    shapes, notes = [], []
    if best_epoch is not None:
        shapes = [_vertical(best_epoch)]
        # Inside the plot: above it is the legend.
        notes = [{**_note(best_epoch, "kept"), "yanchor": "top", "xanchor": "left", "xshift": 4}]
    return _draw(
        "chart-training",
        traces,
        shapes=shapes,
        annotations=notes,
        xaxis={"title": "epoch", "showgrid": False, "tickformat": "d", "nticks": min(len(epochs), 15)},
        yaxis={"title": "loss"},
    )


def budget_curve(curve: Sequence[Row]) -> str:
    """Share of all gain that each way of spending reaches with a share of the budget."""
    looks = {
        "mtorl": ("MTORL: gain / cost", CHALLENGER, "solid"),
        "predicted_gain": ("predicted gain alone", "#7fa3d6", "solid"),
        "random": ("random", INCUMBENT, "solid"),
        "oracle": ("hindsight", INK, "dot"),
    }
    names = [name for name in RULES if name in curve[0]]
    traces = []
    for name in [*(n for n in looks if n in names), *(n for n in names if n not in looks)]:
        label, colour, dash = looks.get(name, (name.replace("_", " "), MUTED, "dash"))
        values = [row.get(name) for row in curve]
        traces.append(_line(label, [row["share"] for row in curve], values, colour, dash, "%{y:.1%}"))
    return _draw(
        "chart-budget-curve",
        traces,
        xaxis={"title": "share of the budget that would buy every exposure", "tickformat": ".0%", "showgrid": False},
        yaxis={"title": "share of all gain", "tickformat": ".0%", "rangemode": "tozero"},
    )


def policy_values(rows: Sequence[tuple[str, float, Sequence[float] | None, str]], div: str, unit: str) -> str:
    """Values with intervals, one line each: (label, value, [low, high], colour), first on top."""
    traces = []
    for label, value, interval, colour in reversed(rows):
        error = None
        if interval is not None:
            arms = {"array": [interval[1] - value], "arrayminus": [value - interval[0]]}
            error = {"type": "data", "symmetric": False, **arms, "thickness": 2.5, "width": 0, "color": colour}
        traces.append(
            _scatter(
                x=[value],
                y=[label],
                error_x=error,
                mode="markers",
                marker={"size": 10, "color": colour},
                hovertemplate="%{x:.4g}<extra></extra>",
                showlegend=False,
            )
        )
    return _draw(
        div,
        traces,
        height=66 + 36 * len(rows),
        hovermode="closest",
        xaxis={"title": unit, "nticks": 6},
        yaxis={"showgrid": False, "automargin": True, "range": [-0.6, len(rows) - 0.4]},
    )


def lift(experiment: Row, unit: str) -> str:
    """The lift with its two intervals against zero, and against the truth where it is known."""
    value, true = experiment["lift"], experiment.get("true_lift")
    traces, ends = [], [0.0, value] + ([true] if true is not None else [])
    for label, key, colour in (("one look", "lift_ci_fixed", INCUMBENT), ("always valid", "lift_ci", CHALLENGER)):
        interval = experiment.get(key)
        if not interval or None in interval:
            continue
        ends += interval
        line = {"color": colour, "width": 7}
        marker = {"size": 11, "color": "#fff", "line": {"color": colour, "width": 3}}
        look = {"hovertemplate": "%{x:+.4g}<extra></extra>", "showlegend": False}
        traces.append(_scatter(x=interval, y=[label, label], mode="lines", line=line, **look))
        traces.append(_scatter(x=[value], y=[label], mode="markers", marker=marker, **look))
    low, high = min(ends), max(ends)
    pad = 0.05 * (high - low) or 1.0
    shapes, notes = [_vertical(0, INK, "solid")], [_note(0, "no lift")]
    if true is not None:
        shapes.append(_vertical(true, GOOD, "dash"))
        notes.append(_note(true, "true lift", GOOD))
    return _draw(
        "chart-lift",
        traces,
        height=190,
        hovermode="closest",
        shapes=shapes,
        annotations=notes,
        margin={"l": 90, "r": 20, "t": 26, "b": 44},
        xaxis={"title": f"challenger − incumbent, {unit}", "nticks": 6, "range": [low - pad, high + pad]},
        yaxis={"showgrid": False, "range": [-0.6, 1.6]},
    )


def lift_series(series: Sequence[Row], true_lift: float | None, unit: str) -> str:
    """The always-valid interval as users arrived; `series` holds only looks that have one."""
    users = [row["users"] for row in series]
    low, high = [row["lo"] for row in series], [row["hi"] for row in series]
    edge = {"mode": "lines", "line": {"color": "rgba(0,0,0,0)", "width": 0}}
    band = {"fill": "tonexty", "fillcolor": BAND, "name": "always-valid interval"}
    traces = [
        _scatter(x=users, y=high, showlegend=False, hovertemplate="%{y:+.4g}<extra>high</extra>", **edge),
        _scatter(x=users, y=low, hovertemplate="%{y:+.4g}<extra>low</extra>", **edge, **band),
        _line("lift", users, [row["lift"] for row in series], CHALLENGER, number="%{y:+.4g}"),
    ]
    if true_lift is not None:
        traces.append(_line("true lift", [users[0], users[-1]], [true_lift] * 2, GOOD, "dash", "%{y:+.4g}"))
    # The first intervals are far wider than all later ones; they may leave the picture so that the end can be read.
    late = len(series) // 5
    bottom, top = min([0.0, *low[late:]]), max([0.0, *high[late:]])
    pad = 0.06 * (top - bottom)
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": INK, "width": 1}}
    return _draw(
        "chart-lift-series",
        traces,
        shapes=[zero],
        xaxis={"title": "users seen", "tickformat": ",d", "showgrid": False},
        yaxis={"title": f"lift, {unit}", "range": [bottom - pad, top + pad]},
    )


def budgets(budget: Mapping[str, Row]) -> str:
    """Spent and still reserved of each arm's limit."""
    arms = list(reversed(list(budget)))
    part = {name: [float(budget[arm].get(name) or 0.0) for arm in arms] for name in ("limit", "spent", "reserved")}
    used = zip(part["limit"], part["spent"], part["reserved"], strict=True)
    part["left"] = [max(limit - spent - reserved, 0.0) for limit, spent, reserved in used]
    traces = [
        _bar(
            name=name,
            y=arms,
            x=part[name],
            orientation="h",
            marker_color=colour,
            hovertemplate="%{x:,.2f}<extra>" + name + "</extra>",
        )
        for name, colour in (("spent", CHALLENGER), ("reserved", "#7fa3d6"), ("left", "#edf0f4"))
    ]
    return _draw(
        "chart-budgets",
        traces,
        height=100 + 38 * len(arms),
        barmode="stack",
        bargap=0.35,
        hovermode="y unified",
        xaxis={"title": "currency units", "nticks": 6, "showgrid": False},
        yaxis={"showgrid": False, "automargin": True},
    )


def _bar(**options: Any) -> Any:
    import plotly.graph_objects as go

    return go.Bar(**options)


def _scatter(**options: Any) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(**options)


def _line(
    name: str, x: Sequence[Any], y: Sequence[Any], colour: str, dash: str = "solid", number: str = "%{y:.4g}"
) -> Any:
    line = {"color": colour, "width": 2.2, "dash": dash}
    return _scatter(x=x, y=y, name=name, mode="lines", line=line, hovertemplate=f"{number}<extra>{name}</extra>")


def _vertical(x: float, colour: str = MUTED, dash: str = "dot") -> dict[str, Any]:
    line = {"color": colour, "width": 1.2, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _note(x: float, text: str, colour: str = MUTED) -> dict[str, Any]:
    """A word above the plot, at a vertical line."""
    font = {"size": 11, "color": colour}
    return {"x": x, "y": 1.0, "yref": "paper", "text": text, "showarrow": False, "yanchor": "bottom", "font": font}


def _draw(div: str, traces: Sequence[Any], *, height: int = 300, **layout: Any) -> str:
    import plotly.graph_objects as go

    axis = {
        "gridcolor": RULE,
        "linecolor": RULE,
        "zeroline": False,
        "ticks": "",
        "title_font_size": 12,
        "fixedrange": True,
    }
    defaults: dict[str, Any] = {
        "height": height,
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": MUTED},
        "margin": {"l": 56, "r": 16, "t": 30, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "showlegend": sum(1 for trace in traces if trace.name and trace.showlegend is not False) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"bgcolor": "#fff", "font": {"color": INK}},
    }
    layout["xaxis"] = axis | layout.get("xaxis", {})
    layout["yaxis"] = axis | layout.get("yaxis", {})
    figure = go.Figure(traces, defaults | layout)
    options = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=div, config=options))
