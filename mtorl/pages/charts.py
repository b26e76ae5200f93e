"""Creates Plotly charts that are readable on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#3f7fd9", "#d9822b", "#2f9e78", "#8a95a3"
PALE_BLUE, PALE_GREY = "rgba(63, 127, 217, 0.45)", "rgba(138, 149, 163, 0.2)"
PALETTE = (BLUE, ORANGE, GREEN, "#c2587a", "#7f68cf", "#35a3b8", "#a9962b")
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# Margins in pixels.
WIDE = {"l": 62, "r": 16, "t": 12, "b": 46}
LOW = {**WIDE, "b": 26}


@dataclass(frozen=True)
class Chart:
    """A chart as HTML, with a sentence that describes it for screen readers."""

    html: str
    alt: str


def bar(**options: Any) -> dict[str, Any]:
    """Return the bars of a chart."""
    return {"type": "bar", **options}


def scatter(**options: Any) -> dict[str, Any]:
    """Return the points or lines of a chart."""
    return {"type": "scatter", **options}


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str) -> Any:
    """Return a line of a chart."""
    look = {"color": colour, "width": 2.2, "dash": "solid"}
    mode = "lines" if len(x) > 1 else "markers"  # a line of one point is invisible
    return scatter(x=x, y=y, name=name, mode=mode, line=look, hovertemplate=f"%{{y:.4g}}<extra>{name}</extra>")


def vertical(x: float, colour: str = GREY, dash: str = "dot") -> dict[str, Any]:
    """Return a vertical line across the plot."""
    look = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": look}


def horizontal(y: float) -> dict[str, Any]:
    """Return a horizontal line across the plot."""
    look = {"color": GREY, "width": 1.5, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": look}


def marks(places: Sequence[tuple[float, str, str]]) -> list[dict[str, Any]]:
    """Return labels above vertical lines of a plot.

    Args:
        places: X position and text of each label, and the side of the text at the line ("left" or "right").
    """
    look = {"yref": "paper", "y": 1.0, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
    return [{"x": x, "text": text, "xanchor": side, **look} for x, text, side in places]


def names_axis() -> dict[str, Any]:
    """Return the settings of an axis of names."""
    return {"type": "category", "showgrid": False, "automargin": True}


def rows_height(rows: int) -> int:
    """Return the height of a chart with one row per name, in pixels."""
    return 44 + 30 * rows


def shares(div: str, share_of: Sequence[tuple[str, float]], what: str) -> Chart:
    """Return a chart with one horizontal bar per name, the first on top.

    Args:
        what: Beginning of the description for screen readers.
    """
    upward = list(share_of)[::-1]
    names, values = [name for name, _ in upward], [share for _, share in upward]
    look = {"marker_color": BLUE, "textposition": "outside", "cliponaxis": False, "orientation": "h"}
    texts = {"text": [f"{share:.1%}" for share in values], "hovertemplate": "%{y}: %{x:.2%}<extra></extra>"}
    bars = bar(x=values, y=names, **look, **texts)
    layout = {"margin": {**LOW, "r": 52}, "xaxis": {"tickformat": ".0%", "rangemode": "tozero", "nticks": 6}}
    html = draw(div, [bars], height=rows_height(len(upward)), **layout, yaxis=names_axis())
    return Chart(html, f"{what}: " + ", ".join(f"{name} {share:.1%}" for name, share in share_of) + ".")


def draw(div: str, traces: Sequence[Any], *, height: int = 300, **layout: Any) -> str:
    """Return a chart as an HTML fragment.

    Args:
        div: Id of the chart, unique on the page.
        height: Height of the chart in pixels.
        layout: Plotly options that override the defaults.
    """
    import plotly.graph_objects as go

    axis = {"zeroline": False, "ticks": "", "title_font_size": 12, "fixedrange": True}
    legend = sum("name" in trace and trace.get("showlegend", True) for trace in traces) > 1
    defaults: dict[str, Any] = {
        "height": height,
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": GREY},
        "margin": {**WIDE, "t": 36} if legend else WIDE,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    }
    layout["xaxis"] = axis | layout.get("xaxis", {})
    layout["yaxis"] = axis | layout.get("yaxis", {})
    figure = go.Figure(traces, defaults | layout)
    options = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"chart-{div}", config=options))
