"""Builds panels for Grafana 11.6: a number, lines over time, states over time, or a table.

In a query, `{NS` stands for the selected namespace, and `EXP` for the selected experiment. Common parameters:

    legend  name of each line or number of a query
    limit   name of an alert, whose threshold sets the color of a number, or is drawn as a line
    texts   text and color to show instead of some values
    empty   text to show if there are no data

A panel with a width of 24 is as wide as the page.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from string import ascii_uppercase
from typing import Any, NamedTuple

from scripts.dashboards.limits import limit as limit_of
from scripts.dashboards.limits import rules

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
Panel = dict[str, Any]
Texts = Mapping[str, tuple[str, str]]
_TABLE = {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]}
_NO_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}
_COLORED = {"id": "custom.cellOptions", "value": {"type": "color-text"}}


class Column(NamedTuple):
    """A column of a table, with the values of one query."""

    title: str
    expr: str
    unit: str = "short"
    limit: str = ""
    texts: Texts | None = None
    decimals: int | None = None


def promql(expr: str) -> str:
    """Replace the abbreviations NS and EXP in a query by the variables of the dashboard."""
    written = expr.replace("{NS", '{namespace="$namespace"').replace("EXP", 'experiment="$experiment"')
    return " ".join(written.split())


def link(title: str, **changes: Any) -> dict[str, Any]:
    """Build a link of a panel or dashboard."""
    usual = {"icon": "", "tooltip": "", "tags": [], "asDropdown": False, "targetBlank": True}
    return {"title": title, "type": "link", **usual, "includeVars": False, "keepTime": False, **changes}


def stat(
    title: str,
    description: str,
    query: str,
    *,
    legend: str = "",
    unit: str = "short",
    limit: str = "",
    bad: Mapping[float, str] | None = None,
    texts: Texts | None = None,
    named: bool = False,
    empty: str = "no data",
) -> Panel:
    """Build a panel with the current result of a query, one number for each series.

    Args:
        bad: Colors of the number, by the smallest value with this color. This replaces `limit`.
        named: Show the names of the series instead of their values.
    """
    options = {"graphMode": "none", "colorMode": "value", "justifyMode": "auto"}
    options |= {"textMode": "name" if named else "auto", "wideLayout": True, "showPercentChange": False}
    options |= {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}}
    options |= {"percentChangeColorMode": "standard", "orientation": "auto"}
    # A result may be no number, for example after a division by zero.
    no_number = _no_number(empty)
    mappings = {"mappings": [no_number] if texts is None else [_words(texts), no_number]}
    targets = [_target(query, "A", legend, instant=True)]
    fields = {**mappings, **_colors(empty, limit, bad or {})}
    return _panel("stat", title, description, targets, {"unit": unit, **fields}, limit, options, height=4)


def lines(
    title: str,
    description: str,
    queries: Mapping[str, str],
    *,
    unit: str = "short",
    limit: str = "",
    line_at: float | None = None,
    least: float | None = 0.0,
    axis: str = "",
    stacked: bool = False,
    empty: str = "no data",
    width: int = 12,
) -> Panel:
    """Build a panel with lines over time.

    Args:
        queries: Dictionary from the legend of a line to its query.
        line_at: Value at which a horizontal line is drawn, if there is no `limit`.
        least: The y axis starts at this value or lower. None means that it starts at the smallest value.
        axis: Label of the y axis, if the unit does not explain it.
    """
    custom: dict[str, Any] = {"thresholdsStyle": {"mode": "dashed"}} if limit or line_at is not None else {}
    custom |= {"lineWidth": 1, "fillOpacity": 30 if stacked else 0, "showPoints": "never"}
    custom |= {"axisLabel": axis} if axis else {}
    custom |= {"axisSoftMin": least} if least is not None else {}
    custom |= {"stacking": {"mode": "normal", "group": "A"}} if stacked else {}
    colors = _colors(empty, limit, {} if line_at is None else {line_at: "text"})
    targets = [_target(query, ascii_uppercase[n], legend) for n, (legend, query) in enumerate(queries.items())]
    options = {"legend": _TABLE, "tooltip": {"mode": "multi", "sort": "desc"}}
    fields = {"unit": unit, **colors, "custom": custom}
    return _panel("timeseries", title, description, targets, fields, limit, options, width=width)


share, duration = (partial(stat, unit=unit) for unit in ("percentunit", "s"))
shares, durations, rates = (partial(lines, unit=unit) for unit in ("percentunit", "s", "reqps"))


def states(title: str, description: str, query: str, texts: Texts, *, legend: str, empty: str) -> Panel:
    """Build a panel that shows the state of each series over time, as colored bars."""
    options: dict[str, Any] = {"showValue": "never", "rowHeight": 0.9, "legend": _NO_LEGEND}
    options |= {"tooltip": {"mode": "single", "sort": "asc"}, "mergeValues": True, "alignValue": "left", "perPage": 20}
    fields = {"unit": "short", "mappings": [_words(texts)], **_colors(empty)}
    return _panel("state-timeline", title, description, [_target(query, "A", legend)], fields, "", options)


def rows(
    title: str, description: str, by: Sequence[str], columns: Sequence[Column], *, empty: str = "none", width: int = 12
) -> Panel:
    """Build a table with one row for each combination of labels, and one column for each query.

    Args:
        by: Names of the labels that the first columns show.
        columns: The other columns. Each query must return exactly the labels in `by`.
    """
    names = [f"Value #{ascii_uppercase[n]}" for n in range(len(columns))] if len(columns) > 1 else ["Value"]
    targets = [_target(one.expr, ascii_uppercase[n], instant=True, format="table") for n, one in enumerate(columns)]
    shown = {name: column.title for name, column in zip(names, columns, strict=True) if column.title}
    organized = {
        "excludeByName": dict.fromkeys(["Time", *(name for name in names if name not in shown)], True),
        "indexByName": {name: n for n, name in enumerate([*by, *shown])},
        "renameByName": shown,
    }
    made = _panel("table", title, description, targets, {"unit": "short", **_colors(empty)}, width=width)
    overrides = [override(column.title, *_cell(column)) for column in columns if column.title]
    fields = {**made.pop("fieldConfig"), "overrides": overrides}
    merged = [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]
    return {**made, "transformations": merged, "fieldConfig": fields}


def override(column: str, *properties: dict[str, Any]) -> dict[str, Any]:
    """Return settings that apply only to the table column with this title."""
    return {"matcher": {"id": "byName", "options": column}, "properties": list(properties)}


def worded(texts: Texts) -> list[dict[str, Any]]:
    """Return the settings of a table column that shows texts instead of values."""
    return [{"id": "mappings", "value": [_words(texts)]}, _COLORED]


def _cell(column: Column) -> list[dict[str, Any]]:
    cell: list[dict[str, Any]] = [{"id": "unit", "value": column.unit}]
    if column.decimals is not None:
        cell.append({"id": "decimals", "value": column.decimals})
    if column.limit:
        cell += [{"id": "thresholds", "value": _colors("", column.limit)["thresholds"]}, _COLORED]
    if column.texts is not None:
        return [*cell, *worded(column.texts)]
    return [*cell, {"id": "mappings", "value": [_no_number("")]}]


def _target(query: str, name: str, legend: str = "", instant: bool = False, **format: str) -> dict[str, Any]:
    when = {"instant": instant, "range": not instant}
    return {"expr": promql(query), "refId": name, **when, **format, "legendFormat": legend, "datasource": SOURCE}


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: list[dict[str, Any]],
    fields: dict[str, Any],
    limit: str = "",
    options: dict[str, Any] | None = None,
    height: int = 8,
    width: int = 12,
) -> Panel:
    made = {"type": kind, "targets": targets, "title": title, "description": description, "transparent": False}
    made |= {"datasource": SOURCE, "gridPos": {"h": height, "w": width}}
    made |= {"links": [link(limit, url=rules()[limit]["annotations"]["runbook_url"])]} if limit else {}
    made |= {"repeatDirection": "h", **({"options": options} if options else {})}
    return {**made, "fieldConfig": {"defaults": fields, "overrides": []}}


def _colors(empty: str, alert: str = "", bad: Mapping[float, str] | None = None) -> dict[str, Any]:
    """Return colors that change at the threshold of `alert` or, if it is empty, at the values in `bad`."""
    steps = {None: "green" if alert or bad else "text", **(bad or {})}
    if alert:
        limit = limit_of(alert)
        steps = {None: "green", limit.value: limit.color} if limit.above else {None: limit.color, limit.value: "green"}
    shown = [{"value": value, "color": color} for value, color in steps.items()]
    return {"thresholds": {"mode": "absolute", "steps": shown}, "noValue": empty}


def _no_number(text: str) -> dict[str, Any]:
    result = {"text": text, "color": "text", "index": 9}
    return {"type": "special", "options": {"match": "null+nan", "result": result}}


def _words(texts: Texts) -> dict[str, Any]:
    shown = enumerate(texts.items())
    return {"type": "value", "options": {value: {"text": t, "color": c, "index": n} for n, (value, (t, c)) in shown}}
