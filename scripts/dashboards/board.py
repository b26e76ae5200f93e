"""Builds a whole dashboard: its variables, links, alerts and panels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scripts.dashboards.limits import COLORS, alerts_of
from scripts.dashboards.panels import SOURCE, Column, Panel, link, override, promql, rows, stat, worded

REPOSITORY = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main"
TAG = "mtorl-kubeflow"
_USUAL = {"includeAll": False, "auto": False, "auto_min": "10s", "auto_count": 30}
# The operator exports `stage`. Routers export `enabled`, which is enough without an operator.
_EXPERIMENTS = '{__name__=~"mtorl_experiment_(stage|enabled)", namespace="$namespace"}'


class Board(NamedTuple):
    """The content of a dashboard.

    Attributes:
        name: Name in URLs (`mtorl-NAME`), which must never change.
        period: Default time range, such as 6h.
        alerts: Labels of alerts that the table of alerts shows as columns.
        sections: Panels of each section, by the section's title. The title of the first section is "".
        experiment: Whether the reader can select one experiment.
    """

    name: str
    description: str
    period: str
    alerts: Sequence[str]
    sections: Mapping[str, Sequence[Panel]]
    experiment: bool = False

    @property
    def uid(self) -> str:
        """Id of the dashboard in its URL."""
        return f"mtorl-{self.name}"


def or_nothing(expr: str) -> str:
    """Make the result of a counting query 0 instead of empty while any router exports metrics."""
    return f"{expr} or 0 * max(mtorl_ready{{NS}})"


def document(board: Board) -> dict[str, Any]:
    """Build the JSON document of a dashboard for Grafana."""
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus", "skipUrlSync": False}
    variables = [
        {**source, "query": "prometheus", "multi": False, "allowCustomValue": True, **_USUAL},
        _variable("namespace", "label_values(mtorl_ready, namespace)"),
    ]
    if board.experiment:
        variables.append(_variable("experiment", f"label_values({_EXPERIMENTS}, experiment)"))
    firing = f'ALERTS{{NS, alertstate="firing", alertname=~"{_names(board)}"}}'
    annotation = {"name": "Alerts", "datasource": SOURCE, "enable": True, "iconColor": "red", "hide": False}
    annotation |= {"builtIn": 0, "expr": promql(firing), "titleFormat": "{{alertname}}"}
    annotation |= {"textFormat": "{{severity}} {{experiment}} {{arm}} {{measure}}"}
    others = {"type": "dashboards", "tags": [TAG], "targetBlank": False, "includeVars": True, "keepTime": True}
    return {
        "schemaVersion": 41,
        "templating": {"list": variables},
        "annotations": {"list": [annotation]},
        "uid": board.uid,
        "title": f"MTORL: {board.name}",
        "description": board.description,
        "tags": [TAG],
        "timezone": "browser",
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": f"now-{board.period}", "to": "now"},
        "fiscalYearStartMonth": 0,
        "refresh": "1m",
        "panels": _placed(board),
        "links": [link("Dashboards", **others), link("Runbooks", url=f"{REPOSITORY}/docs/cluster.md#alerts")],
    }


def _placed(board: Board) -> list[Panel]:
    placed: list[Panel] = []
    x = y = below = 0
    for title, panels in board.sections.items():
        if title:
            panels = [{"type": "row", "collapsed": False, "id": 0, "panels": [], "title": title}, *panels]
        else:
            panels = _with_alerts(board, panels)
        numbers = sum(panel["type"] == "stat" for panel in panels)
        for panel in panels:
            size = {"h": 1, "w": 24} if panel["type"] == "row" else panel["gridPos"]
            if panel["type"] == "stat":  # all numbers of a section are on one line
                size = {**size, "w": 24 // numbers}
            if x + size["w"] > 24:
                x, y = 0, below
            below = max(below, y + size["h"])
            placed.append({**panel, "gridPos": {**size, "x": x, "y": y}, "id": len(placed) + 1})
            x += size["w"]
    return placed


def _with_alerts(board: Board, panels: Sequence[Panel]) -> list[Panel]:
    numbers = [panel for panel in panels if panel["type"] == "stat"]
    names, by = _names(board), ["alertname", "severity", "alertstate", *board.alerts]
    count = stat(
        "Alerts",
        "Number of firing alerts that link to this dashboard. The table below lists them.",
        or_nothing(f'count(ALERTS{{NS, alertstate="firing", alertname=~"{names}"}})'),
        bad={1: "orange"},
    )
    table = rows(
        "Alerts",
        "Pending: the condition is true, but not for long enough yet. Click a name to open its runbook.",
        by,
        [Column("", f'max by ({", ".join(by)}) (ALERTS{{NS, alertname=~"{names}"}})')],
        empty="no alert",
    )
    runbook = {"title": "Runbook", "url": f"{REPOSITORY}/docs/runbooks/${{__value.raw}}.md", "targetBlank": True}
    table["fieldConfig"]["overrides"] = [
        override("alertname", {"id": "links", "value": [runbook]}),
        override("severity", *worded({severity: (severity, color) for severity, color in COLORS.items()})),
    ]
    return [*numbers, count, table, *panels[len(numbers) :]]


def _variable(name: str, query: str) -> dict[str, Any]:
    made = {"type": "query", "name": name, "label": name.title(), "skipUrlSync": False}
    made |= {"query": {"query": query, "refId": name}, "datasource": SOURCE, "multi": False, "allowCustomValue": True}
    return {**made, "refresh": 2, "sort": 1, **_USUAL}


def _names(board: Board) -> str:
    return "|".join(alerts_of(board.uid))
