"""A whole dashboard: variables, links to the others, its alerts, and the panels in sections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import stat as stat_builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from scripts.dashboards.limits import COLORS, alerts_of
from scripts.dashboards.panels import SOURCE, Column, Panel, promql, rows, stat

REPOSITORY = "https://github.com/mtorl-kubeflow/mtorl-kubeflow/blob/main"
TAG = "mtorl-kubeflow"
_NOTHING = "0 * max(mtorl_ready{NS})"
"""Zero where a router is known: what is not watched must not look fine."""


class Section(NamedTuple):
    """Panels under a heading; those on top have none."""

    title: str
    panels: Sequence[Panel]


class Board(NamedTuple):
    """A dashboard."""

    uid: str  # by which addresses name it; it never changes
    title: str
    description: str  # what it answers
    period: str  # how far back it looks at first, such as 6h
    sections: Sequence[Section]  # its panels. The first section is what one looks at first.
    experiment: bool = False  # whether one experiment is chosen


def or_nothing(expr: str) -> str:
    """A count that is 0, and not unknown, where nothing is counted."""
    return f"{expr} or {_NOTHING}"


def alert_count(uid: str) -> Panel:
    """How many alerts of a dashboard fire."""
    return stat(
        "Alerts",
        "Alerts that fire, of those that lead to this dashboard. They are listed below.",
        or_nothing(f'count(ALERTS{{NS, alertstate="firing", alertname=~"{_names(uid)}"}})'),
        bad={1: "orange"},
    )


def alert_list(uid: str, labels: Sequence[str]) -> Panel:
    """The alerts of a dashboard, and their runbooks."""
    by = ["alertname", "severity", "alertstate", *labels]
    return rows(
        "Alerts",
        "Pending: its condition holds, but not for long enough yet. A click on the name leads to the runbook.",
        by,
        [Column("", f'max by ({", ".join(by)}) (ALERTS{{NS, alertname=~"{_names(uid)}"}})')],
        links={"alertname": ("Runbook", f"{REPOSITORY}/docs/runbooks/${{__value.raw}}.md")},
        words={"severity": {severity: (severity, color) for severity, color in COLORS.items()}},
        empty="no alert",
    )


def document(board: Board) -> dict[str, Any]:
    """The JSON that Grafana reads."""
    made = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .refresh("1m")
        .time(f"now-{board.period}", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("namespace", "Namespace", "label_values(mtorl_ready, namespace)"))
        .link(
            builders.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .link(
            builders.DashboardLink("Runbooks")
            .type(models.DashboardLinkType.LINK)
            .url(f"{REPOSITORY}/docs/cluster.md#alerts")
            .target_blank(True)
        )
        .annotation(
            builders.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr(promql(f'ALERTS{{NS, alertstate="firing", alertname=~"{_names(board.uid)}"}}'))
        )
    )
    if board.experiment:
        # Of the operator, and of routers: an experiment file has no operator.
        series = '{__name__=~"mtorl_experiment_(stage|enabled)", namespace="$namespace"}'
        made = made.with_variable(_variable("experiment", "Experiment", f"label_values({series}, experiment)"))
    for section in board.sections:
        if section.title:
            made = made.with_row(builders.Row(section.title))
        numbers = sum(isinstance(panel, stat_builder.Panel) for panel in section.panels)
        for panel in section.panels:
            # The numbers fill a row of 24 columns.
            made = made.with_panel(panel.span(24 // numbers) if isinstance(panel, stat_builder.Panel) else panel)
    written: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for annotation in written["annotations"]["list"]:  # what the SDK has no fields for
        annotation |= {"titleFormat": "{{alertname}}", "textFormat": "{{severity}} {{experiment}} {{arm}} {{measure}}"}
    for number, panel in enumerate(written["panels"], 1):
        panel["id"] = number
    return written


def _variable(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _names(uid: str) -> str:
    return "|".join(alerts_of(uid))
