"""The only file that imports Evidently: the page that explains the scores, and the scores that it shows.

Method and threshold are always given: Evidently's own choice depends on the row count and swaps distances for p-values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mtorl.drift.calibration import Thresholds
from mtorl.drift.drift_tests import asked_of


def score_and_save(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, str],
    thresholds: Thresholds,
    html: Path,
    title: str,
) -> dict[tuple[str, str], float]:
    """Write the page about columns that have passed the schema checks.

    Args:
        reference: Columns of the training reference, as floats and strings.
        current: Columns of the period, alike.
        kinds: "numeric" or "categorical" of each column.
        thresholds: By column and method.
        html: Page to write.
        title: Of the page.

    Returns:
        By column and method, the score of each test whose method is Evidently's.
    """
    os.environ["DO_NOT_TRACK"] = "1"  # telemetry is on by default and is read at import
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import Metric
    from evidently.metrics import MissingValueCount, RowCount, ValueDrift

    names = list(kinds)
    metrics: list[Metric] = [RowCount(), *(MissingValueCount(column=name) for name in names)]
    metrics += [
        ValueDrift(column=name, method=test.method, threshold=thresholds[name, test.method])
        for name in names
        for test in asked_of(kinds[name])
        if test.evidently
    ]
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
        (metric["config"]["column"], metric["config"]["method"]): float(metric["value"])
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
