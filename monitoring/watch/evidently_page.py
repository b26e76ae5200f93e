"""Draws a page with Evidently that shows the distribution of each column, with its score and threshold."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mtorl.drift.drift_tests import asked_of
from mtorl.drift.thresholds import Thresholds


def save_page(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, str],
    thresholds: Thresholds,
    html: Path,
    title: str,
) -> None:
    """Write the page about columns that exist in both tables and contain floats or strings."""
    # Evidently reads this variable at its import, and turns off its telemetry.
    os.environ["DO_NOT_TRACK"] = "1"
    # Evidently's dependencies emit these warnings.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
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
    snapshot = Report(metrics, metadata={f"threshold of {name}": f"{at:.4f}" for (name, _), at in shown.items()}).run(
        Dataset.from_pandas(current[names], data_definition=definition),
        Dataset.from_pandas(reference[names], data_definition=definition),
        name=title,
    )
    html.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(html))
