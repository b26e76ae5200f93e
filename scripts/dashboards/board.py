"""A whole dashboard: variables, links to the others, its alerts, and the panels in sections."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scripts.dashboards.limits import COLORS, alerts_of
from scripts.dashboards.panels import SOURCE, Column, Panel, link, override, promql, rows, stat, worded

REPOSITORY = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main"
TAG = "mtorl-kubeflow"
_USUAL = {"includeAll": False, "auto": False, "auto_min": "10s", "auto_count": 30}
# Of the operator, and of routers: an experiment file has no operator.
_EXPERIMENTS = '{__name__=~"mtorl_experiment_(stage|enabled)", namespace="$namespace"}'


class Board(NamedTuple):
    """A dashboard."""

    name: str  # with the prefix `mtorl-` the uid by which addresses name it: it never changes
    description: str  # the question that the board answers
    period: str  # how far back it looks at first, such as 6h
    alerts: Sequence[str]  # labels of its alerts, which are listed behind the numbers of the first section
    sections: Mapping[str, Sequence[Panel]]  # by title; the first section is what one looks at first, and has none
    experiment: bool = False  # whether one experiment is chosen

    @property
    def uid(self) -> str:
        """Id of the dashboard in its address."""
        return f"mtorl-{self.name}"


def or_nothing(expr: str) -> str:
    """A count that is 0, and not unknown, where nothing is counted but a router is known."""
    return f"{expr} or 0 * max(mtorl_ready{{NS}})"


def document(board: Board) -> dict[str, Any]:
    """The JSON that Grafana reads."""
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
    """The panels of all sections from left to right, with their places and numbers."""
    placed: list[Panel] = []
    x = y = below = 0  # where the next panel is, and where the next line of panels
    for title, panels in board.sections.items():
        if title:
            panels = [{"type": "row", "collapsed": False, "id": 0, "panels": [], "title": title}, *panels]
        else:
            panels = _with_alerts(board, panels)
        numbers = sum(panel["type"] == "stat" for panel in panels)
        for panel in panels:
            size = {"h": 1, "w": 24} if panel["type"] == "row" else panel["gridPos"]
            if panel["type"] == "stat":  # the numbers of a section fill a line
                size = {**size, "w": 24 // numbers}
            if x + size["w"] > 24:
                x, y = 0, below
            below = max(below, y + size["h"])
            placed.append({**panel, "gridPos": {**size, "x": x, "y": y}, "id": len(placed) + 1})
            x += size["w"]
    return placed


def _with_alerts(board: Board, panels: Sequence[Panel]) -> list[Panel]:
    """A section with the number of alerts that fire as its last number, and a table of them behind it."""
    numbers = [panel for panel in panels if panel["type"] == "stat"]
    names, by = _names(board), ["alertname", "severity", "alertstate", *board.alerts]
    count = stat(
        "Alerts",
        "Alerts that fire, of those that lead to this dashboard. They are listed below.",
        or_nothing(f'count(ALERTS{{NS, alertstate="firing", alertname=~"{names}"}})'),
        bad={1: "orange"},
    )
    table = rows(
        "Alerts",
        "Pending: its condition holds, but not for long enough yet. A click on the name leads to the runbook.",
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
