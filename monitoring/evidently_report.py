"""The one place that touches Evidently: the scores that are reported, and the page that explains them.

Method and threshold are always given: Evidently's own choice depends on the row count and swaps distances for p-values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from monitoring.calibration import METHODS


def score_and_save(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, str],
    thresholds: Mapping[str, float],
    html: Path,
    title: str,
) -> dict[str, float]:
    """Run the report on columns that have passed the schema checks, write its page, return the score of each column."""
    os.environ["DO_NOT_TRACK"] = "1"  # telemetry is on by default and is read at import
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import Metric
    from evidently.metrics import MissingValueCount, RowCount, ValueDrift

    names = list(kinds)
    metrics: list[Metric] = [RowCount(), *(MissingValueCount(column=name) for name in names)]
    for name in names:
        metrics.append(ValueDrift(column=name, method=METHODS[kinds[name]], threshold=thresholds[name]))
    definition = DataDefinition(
        numerical_columns=[name for name in names if kinds[name] == "numeric"],
        categorical_columns=[name for name in names if kinds[name] == "categorical"],
    )
    snapshot = Report(metrics).run(
        Dataset.from_pandas(current[names], data_definition=definition),
        Dataset.from_pandas(reference[names], data_definition=definition),
        name=title,
    )
    html.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(html))
    return {
        metric["config"]["column"]: float(metric["value"])
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
