"""Compares the columns of a period with the training sample, and writes the scores and a page drawn by Evidently.

A separate test compares the shares of missing values, because the other tests ignore missing values.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from monitoring.watch.evidently_page import save_page
from mtorl.drift.drift_tests import asked_of, change
from mtorl.drift.reference import MIN_ROWS, MIN_USERS, sample_users, typed
from mtorl.drift.thresholds import Size, ThresholdGrid, Thresholds
from mtorl.experiment.inference.sums import Floats
from mtorl.log.dataset import Column
from mtorl.runtime.files import replacing

Page = Literal["always", "moved", "never"]
"""When the monitor lets Evidently draw a page about the columns. moved: only if a column has moved, or has lost its
values."""


@dataclass(frozen=True)
class ColumnDrift:
    """The result of checking one column.

    Attributes:
        method: The test that found the problem; without a problem, the last test.
        problem: Name of the problem, as in `mtorl.drift.drift_tests`; None without a problem.
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


@dataclass(frozen=True)
class DriftResult:
    """The result of checking all columns of a period, as stored in drift.json.

    Attributes:
        not_checked: Reason why nothing could be compared.
    """

    rows: int
    users: int
    columns: tuple[ColumnDrift, ...]
    not_checked: str | None


def check(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[Column],
    grid: ThresholdGrid | None,
    *,
    out_dir: Path,
    whole: Size | None = None,
    title: str = "",
    page: Page = "always",
) -> DriftResult:
    """Compare the rows of a period with the training sample. Both tables have a column `user_id`.

    Args:
        reference: All training rows of some users. The rows of each user are in the order of time.
        current: Rows of the period, or of a sample of its users.
        grid: Thresholds for this training sample; None if the sample had too few users.
        whole: Size of the whole period, if `current` is a sample.
        page: Whether to draw the page drift.html, which is slow.
    """
    whole = whole or Size(_users(current), len(current))
    not_checked = _too_little(reference, current) or (None if grid else "the model has no thresholds of its columns")
    result = DriftResult(whole.rows, whole.users, (), not_checked)
    if not_checked is None and grid is not None:
        draw = partial(save_page, html=out_dir / "drift.html", title=title)
        judged = _compare(sample_users(reference), sample_users(current), columns, grid, draw, page)
        result = replace(result, columns=judged)
    # Other processes may read the file at any moment, so replace it atomically.
    with replacing(out_dir / "drift.json") as unfinished:
        unfinished.write_text(json.dumps(asdict(result), indent=2, allow_nan=False) + "\n")
    return result


def _compare(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[Column],
    grid: ThresholdGrid,
    draw: Callable[[pd.DataFrame, pd.DataFrame, Mapping[str, str], Thresholds], None],
    page: Page,
) -> tuple[ColumnDrift, ...]:
    rows = {column.name: _shares(reference, current, column) for column in columns}
    kinds = {column.name: column.kind for column in columns if rows[column.name].problem is None}
    if not kinds:
        return tuple(rows.values())
    ref, cur = typed(reference, kinds), typed(current, kinds)
    thresholds = grid.at(Size(users=_users(current), rows=len(current)), kinds)
    both = pd.concat([ref, cur], ignore_index=True)
    in_reference = (np.arange(len(both)) < len(ref)).astype(np.float64)
    for name in kinds:
        rows[name] = _judge(rows[name], both[name], in_reference, thresholds)
    if page == "always" or (page == "moved" and any(row.problem is not None for row in rows.values())):
        draw(ref, cur, kinds, thresholds)
    return tuple(rows.values())


def _judge(row: ColumnDrift, values: pd.Series, in_reference: Floats, thresholds: Thresholds) -> ColumnDrift:
    """Run the tests of one column. The first score above its threshold determines the problem."""
    for test in asked_of(row.kind):
        if (row.column, test.method) not in thresholds:
            continue
        score = float(test.scorer(values)(in_reference, 1.0 - in_reference))
        row = replace(row, method=test.method, score=score, threshold=thresholds[row.column, test.method])
        if not math.isfinite(score):
            return replace(row, score=None, problem="no_score", message="the values are too large for a score")
        changed = change(values[in_reference > 0.0], values[in_reference == 0.0])
        row = replace(row, message=test.message.format(found=row, change=changed))
        if score >= thresholds[row.column, test.method]:
            return replace(row, problem=test.problem)
    return row


def _shares(reference: pd.DataFrame, current: pd.DataFrame, column: Column) -> ColumnDrift:
    """Compute a column's share of missing values, and report a missing or empty column as a problem."""
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
