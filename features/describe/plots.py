"""How a chart looks: Plotly in few words, the same on a light page and a dark one.

Colours that must follow the page (ink, rules) are set by its CSS; those of the marks stand out on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

BLUE, ORANGE, GREY = "#3f7fd9", "#d9822b", "#8a95a3"
PALETTE = (BLUE, ORANGE, "#2f9e78", "#c2587a", "#7f68cf", "#35a3b8", "#a9962b")
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDE = {"l": 62, "r": 16, "t": 12, "b": 46}  # margins with a title of the axis below
LOW = {**WIDE, "b": 26}  # and without


@dataclass(frozen=True)
class Chart:
    """A drawing, and a sentence for those who can't see it."""

    html: str
    alt: str


def bar(**options: Any) -> Any:
    """Bars."""
    import plotly.graph_objects as go

    return go.Bar(**options)


def scatter(**options: Any) -> Any:
    """Points or lines."""
    import plotly.graph_objects as go

    return go.Scatter(**options)


def heatmap(**options: Any) -> Any:
    """Cells, the bluer the more."""
    import plotly.graph_objects as go

    scale = [[0, "rgba(63, 127, 217, 0)"], [1, "rgba(63, 127, 217, 1)"]]
    return go.Heatmap(**options, colorscale=scale, showscale=False, xgap=1, ygap=3, zmin=0)


def vertical(x: float) -> dict[str, Any]:
    """A dotted line across the plot."""
    line = {"color": GREY, "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def marks(places: Sequence[tuple[float, str, str]]) -> list[dict[str, Any]]:
    """A word above the plot for each vertical line: (x, word, the word's side that is at the line)."""
    look = {"yref": "paper", "y": 1.0, "yanchor": "bottom", "showarrow": False}
    return [{"x": x, "text": text, "xanchor": side, **look} for x, text, side in places]


def draw(div: str, traces: Sequence[Any], *, height: int = 300, **layout: Any) -> str:
    """An HTML fragment of a fixed height; plotly.js itself is put into the page once."""
    import plotly.graph_objects as go

    axis = {"zeroline": False, "ticks": "", "title_font_size": 12, "fixedrange": True}
    defaults: dict[str, Any] = {
        "height": height,
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": GREY},
        "margin": WIDE,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "showlegend": sum(1 for trace in traces if trace.name) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    }
    layout["xaxis"] = axis | layout.get("xaxis", {})
    layout["yaxis"] = axis | layout.get("yaxis", {})
    figure = go.Figure(traces, defaults | layout)
    options = {"responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"chart-{div}", config=options))
