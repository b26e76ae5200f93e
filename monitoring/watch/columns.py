"""Compares the columns of a period with the training sample, and writes the figures and Evidently's page.

    result = check(reference, current, columns, out_dir=state / "periods" / "2026-11-01T00")

Order: schema (columns there, values there, enough users) -> thresholds for a period of this size, kept in the artifact
or calibrated now -> the scores of each column's tests (`mtorl.drift`) -> a page by Evidently (`evidently_page.py`),
whose scores are the same -> drift.html, drift.json. Broken data never crash the check: they become findings.
Evidently itself drops missing values before it scores, so a column that is half empty looks healthy to it; the rise of
the missing share is therefore a test of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from monitoring.watch.evidently_page import Filing, save_page
from mtorl.drift.calibration import ALPHA, Size, Thresholds, calibrate
from mtorl.drift.drift_tests import asked_of
from mtorl.drift.reference import MIN_ROWS, MIN_USERS, sample_users, typed
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column
from mtorl.runtime.files import replacing

Scores = dict[tuple[str, str], float]
"""By column and method of the test."""
Page = Literal["always", "moved", "never"]
"""When Evidently draws a page; moved: where a column has moved, or lost its values."""


@dataclass(frozen=True)
class ColumnDrift:
    """What the check says of one column; `problem` is None when it is healthy, else as in `drift_tests`.

    Method, score and threshold are those of the test that found the problem, or of the last one.
    """

    column: str
    kind: str
    method: str
    score: float | None
    threshold: float | None
    missing_share: float
    reference_missing_share: float
    problem: str | None
    message: str

    @property
    def detected(self) -> bool:
        """True when someone should look at this column."""
        return self.problem is not None


@dataclass(frozen=True)
class DriftResult:
    """One period against the reference. `not_checked` says why when nothing could be compared."""

    period: str
    rows: int
    users: int
    reference_rows: int
    reference_users: int
    alpha: float
    columns: tuple[ColumnDrift, ...]
    not_checked: str | None
    html: str | None
    json: str
    seconds: float

    @property
    def detected_columns(self) -> tuple[str, ...]:
        """Columns that drifted or broke, in the order given."""
        return tuple(column.column for column in self.columns if column.detected)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, as in drift.json."""
        columns = [{**asdict(column), "detected": column.detected} for column in self.columns]
        return {**asdict(self), "columns": columns, "detected_columns": list(self.detected_columns)}


def check(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[Column],
    *,
    out_dir: Path,
    whole: Size | None = None,
    grid: ThresholdGrid | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    title: str = "",
    filing: Filing | None = None,
    page: Page = "always",
) -> DriftResult:
    """Compare the rows of a period with the reference sample; both have a column user_id.

    Args:
        reference: Rows that the model was trained on, whole users, rows of a user in the order of time.
        current: Rows of the period, or of a sample of its users.
        columns: Context and static columns of the data set description.
        out_dir: Where drift.html and drift.json go; its name is the period's name.
        whole: Size of the period that `current` is a sample of.
        grid: Thresholds that were measured for this reference. Without them, or where they don't fit (another alpha, or
            a column or test that they lack), thresholds are calibrated for this very period.
        alpha: Probability that a healthy period raises any alarm, over all columns together.
        seed: Seed of the calibration.
        title: Of the page; by default it names the period.
        filing: Where Evidently's report is filed, too; None: nowhere.
        page: When Evidently draws drift.html: it takes longer than all else together. The scores are the same.
    """
    started = time.perf_counter()
    out_dir = Path(out_dir)
    whole = whole or Size(_users(current), len(current))
    result = DriftResult(
        period=out_dir.name,
        rows=whole.rows,
        users=whole.users,
        reference_rows=len(reference),
        reference_users=_users(reference),
        alpha=alpha,
        columns=(),
        not_checked=_too_little(reference, current),
        html=None,
        json=str(out_dir / "drift.json"),
        seconds=0.0,
    )
    if result.not_checked is None:
        html = out_dir / "drift.html"
        draw = partial(save_page, html=html, title=title or f"drift: {result.period}", filing=filing)
        judged, drawn = _compare(
            sample_users(reference), sample_users(current), columns, draw, page, result, grid, seed
        )
        result = replace(result, columns=judged, html=str(html) if drawn else None)
    result = replace(result, seconds=round(time.perf_counter() - started, 3))
    # Whole or not at all: an exporter may read the file at any moment.
    with replacing(Path(result.json)) as unfinished:
        unfinished.write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return result


def _compare(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[Column],
    draw: Callable[[pd.DataFrame, pd.DataFrame, Mapping[str, str], Thresholds], None],
    page: Page,
    result: DriftResult,
    grid: ThresholdGrid | None,
    seed: int,
) -> tuple[tuple[ColumnDrift, ...], bool]:
    """Schema check of every column, then the tests of those that can be compared; and whether a page was drawn."""
    rows = {column.name: _shares(reference, current, column) for column in columns}
    kinds = {column.name: column.kind for column in columns if rows[column.name].problem is None}
    if not kinds:
        return tuple(rows.values()), False
    ref, cur = typed(reference, kinds), typed(current, kinds)
    size = Size(users=_users(current), rows=len(current))
    thresholds = grid.at(size, kinds, result.alpha) if grid else None
    if thresholds is None:
        thresholds = calibrate(ref.assign(user_id=reference["user_id"]), kinds, size, alpha=result.alpha, seed=seed)
    scores = _scores(ref, cur, kinds)
    for name in kinds:
        rows[name] = _judge(rows[name], scores, thresholds)
    drawn = page == "always" or (page == "moved" and any(row.detected for row in rows.values()))
    if drawn:
        draw(ref, cur, kinds, thresholds)
    return tuple(rows.values()), drawn


def _scores(reference: pd.DataFrame, current: pd.DataFrame, kinds: Mapping[str, str]) -> Scores:
    """Scores of all tests; those whose method is one of Evidently's are equal to what its page shows."""
    both = pd.concat([reference, current], ignore_index=True)
    in_reference = (np.arange(len(both)) < len(reference)).astype(np.float64)
    return {
        (name, test.method): float(test.scorer(both[name])(in_reference, 1.0 - in_reference))
        for name, kind in kinds.items()
        for test in asked_of(kind)
    }


def _judge(row: ColumnDrift, scores: Scores, thresholds: Thresholds) -> ColumnDrift:
    """Compare the scores of a column's tests with their thresholds: the first finding is the column's problem."""
    for test in asked_of(row.kind):
        score, threshold = scores[row.column, test.method], thresholds[row.column, test.method]
        row = replace(row, method=test.method, score=score, threshold=threshold)
        if not math.isfinite(score):
            return replace(row, score=None, problem="no_score", message="the values are too large for a score")
        message = test.message.format(
            method=test.method,
            score=score,
            threshold=threshold,
            missing=row.missing_share,
            reference_missing=row.reference_missing_share,
        )
        row = replace(row, message=message)
        if score >= threshold:
            return replace(row, problem=test.problem)
    return row


def _shares(reference: pd.DataFrame, current: pd.DataFrame, column: Column) -> ColumnDrift:
    """The schema check of one column, before any score."""
    method = asked_of(column.kind)[-1].method
    row = ColumnDrift(column.name, column.kind, method, None, None, 0.0, 0.0, None, "")
    for frame, name in ((reference, "reference"), (current, "current period")):
        if column.name not in frame:
            return replace(row, problem="no_column", message=f"the {name} has no column {column.name!r}")
    kinds = {column.name: column.kind}
    absent_ref = float(typed(reference, kinds)[column.name].isna().mean())
    absent = float(typed(current, kinds)[column.name].isna().mean())
    row = replace(row, missing_share=absent, reference_missing_share=absent_ref)
    for share, name in ((absent_ref, "reference"), (absent, "current period")):
        if share == 1.0:
            what = "number" if column.kind == "numeric" else "value"
            return replace(row, problem="no_values", message=f"no {what} in any row of the {name}")
    return row


def _users(frame: pd.DataFrame) -> int:
    return int(frame["user_id"].nunique()) if "user_id" in frame else 0


def _too_little(reference: pd.DataFrame, current: pd.DataFrame) -> str | None:
    for frame, name, times in ((reference, "reference", 2), (current, "current period", 1)):
        if "user_id" not in frame:
            return f"the {name} has no column 'user_id', and drift is judged by users"
        rows, users = len(frame), _users(frame)
        if rows < MIN_ROWS * times or users < MIN_USERS * times:
            return (
                f"the {name} has {rows} rows of {users} users; at least {MIN_ROWS * times} rows of "
                f"{MIN_USERS * times} users are needed"
            )
    return None
