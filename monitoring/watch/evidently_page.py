"""The page by Evidently that explains the scores, and its workspace; no other file imports Evidently.

    evidently ui --workspace monitor/evidently          # each period that was filed, and each column over time

Method and threshold are always given: Evidently's own choice depends on the row count and swaps distances for p-values.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mtorl.drift.drift_tests import asked_of
from mtorl.drift.thresholds import Thresholds

PROJECT = "mtorl"
KEPT_RUNS = 120  # in a workspace: its pages get slow with thousands


class Filing(NamedTuple):
    """Where and as what a report is filed."""

    workspace: Path  # folder of an Evidently workspace; it is made if there is none
    until: datetime  # end of the period
    model_version: str  # of the training sample


def save_page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, str],
    thresholds: Thresholds,
    html: Path,
    title: str,
    filing: Filing | None = None,
) -> None:
    """Write the page about columns (as floats and strings) that have passed the schema checks."""
    os.environ["DO_NOT_TRACK"] = "1"  # telemetry is on by default and is read at import
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of the libraries that it imports
        from evidently import DataDefinition, Dataset, Report
        from evidently.core.metric_types import Metric
        from evidently.metrics import MissingValueCount, RowCount, ValueDrift

    names = list(kinds)
    shown = {
        (name, test.method): thresholds[name, test.method]
        for name in names
        for test in asked_of(kinds[name])
        if test.evidently and (name, test.method) in thresholds
    }
    metrics: list[Metric] = [RowCount(), *(MissingValueCount(column=name) for name in names)]
    metrics += [ValueDrift(column=name, method=method, threshold=at) for (name, method), at in shown.items()]
    definition = DataDefinition(
        numerical_columns=[name for name in names if kinds[name] == "numeric"],
        categorical_columns=[name for name in names if kinds[name] == "categorical"],
    )
    metadata: dict[str, Any] = {f"threshold of {name}": f"{at:.4f}" for (name, _), at in shown.items()}
    if filing is not None:
        metadata = {"model_version": filing.model_version, **metadata}
    snapshot = Report(metrics, metadata=metadata).run(
        Dataset.from_pandas(current[names], data_definition=definition),
        Dataset.from_pandas(reference[names], data_definition=definition),
        name=title,
        timestamp=None if filing is None else filing.until.replace(tzinfo=None),
    )
    html.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(html))
    if filing is not None:
        _file(snapshot, filing.workspace, names)


def _file(snapshot: Any, folder: Path, columns: list[str]) -> None:
    """Add a run to the workspace, with a dashboard of its columns, and remove the oldest runs."""
    from evidently.sdk.models import DashboardModel, DashboardTabModel, PanelMetric
    from evidently.sdk.panels import line_plot_panel
    from evidently.ui.workspace import Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(folder))
    found = workspace.search_project(PROJECT)
    project = found[0] if found else workspace.create_project(PROJECT)
    workspace.add_run(project.id, snapshot)
    panels = {panel.title: panel for panel in project.dashboard.model().panels} if found else {}
    new = [name for name in columns if _distance(name) not in panels]
    if new:
        for name in new:
            distance = PanelMetric(legend="distance", metric="ValueDrift", metric_labels={"column": name})
            missing = PanelMetric(
                legend="share missing",
                metric="MissingValueCount",
                metric_labels={"column": name, "value_type": "share"},
            )
            panels[_distance(name)] = line_plot_panel(_distance(name), [distance, missing], size="half")
        tab = DashboardTabModel(title="Columns", panels=[panel.id for panel in panels.values()])
        workspace.save_dashboard(project.id, DashboardModel(tabs=[tab], panels=list(panels.values())))
    for old in sorted(workspace.list_runs(project.id))[:-KEPT_RUNS]:  # their ids begin with the time
        workspace.delete_run(project.id, old)


def _distance(column: str) -> str:
    return f"{column}: distance to the training sample"
