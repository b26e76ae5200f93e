"""Have the features that the policy reads moved away from those it was trained on?

    result = check(reference, current, columns, out_dir=run / "drift" / "clean")

Order: schema (columns there, values there, enough users) -> thresholds calibrated for this window (`calibration`) ->
scores and page by Evidently (`evidently_report`) -> drift.html, drift.json. Broken data never crash the check, because
they are what it is for: they become findings. Evidently itself drops missing values before it scores, so a column that
is half empty looks healthy to it; the rise of the missing share is therefore a test of its own.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from monitoring.calibration import METHODS, Thresholds, calibrate
from monitoring.evidently_report import score_and_save
from mtorl.log.dataset import Column

MIN_ROWS, MIN_USERS = 100, 20  # fewer cannot tell drift from chance
MAX_ROWS = 20_000  # beyond this distances hardly move, while memory and time grow

Problem = Literal["drift", "missing_values", "no_values", "no_column", "no_score"]


@dataclass(frozen=True)
class ColumnDrift:
    """What the check found in one column; `problem` is None when it is healthy."""

    column: str
    kind: str
    method: str
    score: float | None
    threshold: float | None
    missing_share: float
    reference_missing_share: float
    problem: Problem | None
    message: str

    @property
    def detected(self) -> bool:
        """True when someone should look at this column."""
        return self.problem is not None


@dataclass(frozen=True)
class DriftResult:
    """One window against the reference. `not_checked` says why when nothing could be compared."""

    window: str
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
    user: str = "user_id",
    window: str | None = None,
    alpha: float = 0.01,
    seed: int = 0,
) -> DriftResult:
    """Compare a window of current rows with the reference sample.

    Args:
        reference: rows that the model was trained on, whole users, rows of a user in time order.
        current: rows of the window.
        columns: context and static columns of the data set description.
        out_dir: where drift.html and drift.json go.
        user: name of the user column.
        window: name of the window; the folder's name if not given.
        alpha: probability that a healthy window raises any alarm, over all columns together.
        seed: seed of the calibration.
    """
    started = time.perf_counter()
    out_dir = Path(out_dir)
    result = DriftResult(
        window=window or out_dir.name,
        rows=len(current),
        users=_users(current, user),
        reference_rows=len(reference),
        reference_users=_users(reference, user),
        alpha=alpha,
        columns=(),
        not_checked=_too_little(reference, current, user),
        html=None,
        json=str(out_dir / "drift.json"),
        seconds=0.0,
    )
    if result.not_checked is None:
        ref, cur = _sample(reference, user), _sample(current, user)
        found, html = _compare(ref, cur, columns, user, out_dir / "drift.html", result, seed)
        result = replace(result, columns=found, html=str(html) if html else None)
    result = replace(result, seconds=round(time.perf_counter() - started, 3))
    _write(Path(result.json), result.to_dict())
    return result


def _compare(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Sequence[Column],
    user: str,
    html: Path,
    result: DriftResult,
    seed: int,
) -> tuple[tuple[ColumnDrift, ...], Path | None]:
    """Schema check of every column, then thresholds and scores for those that have something to compare."""
    rows = {column.name: _shares(reference, current, column) for column in columns}
    kinds = {column.name: column.kind for column in columns if rows[column.name].problem is None}
    if not kinds:
        return tuple(rows.values()), None
    ref, cur = _typed(reference, kinds), _typed(current, kinds)
    thresholds = calibrate(
        ref.assign(**{user: reference[user]}),
        kinds,
        user,
        users=_users(current, user),
        rows=len(current),
        alpha=result.alpha,
        seed=seed,
    )
    scores = score_and_save(ref, cur, kinds, thresholds.score, html, f"drift: {result.window}")
    for name in kinds:
        rows[name] = _judge(rows[name], scores[name], thresholds)
    return tuple(rows.values()), html


def _judge(row: ColumnDrift, score: float, thresholds: Thresholds) -> ColumnDrift:
    """Compare a column's score and missing share with their thresholds."""
    limit, missing_limit = thresholds.score[row.column], thresholds.missing[row.column]
    risen = row.missing_share - row.reference_missing_share
    problem: Problem | None = None
    message = f"{row.method} {score:.3f}, threshold {limit:.3f}"
    if not math.isfinite(score):
        problem, message = "no_score", "the values are too large for a score"
    elif risen > missing_limit:
        problem = "missing_values"
        message = f"{row.missing_share:.1%} of values missing, {row.reference_missing_share:.1%} in the reference"
    elif score >= limit:
        problem = "drift"
    return replace(
        row, score=score if math.isfinite(score) else None, threshold=limit, problem=problem, message=message
    )


def _shares(reference: pd.DataFrame, current: pd.DataFrame, column: Column) -> ColumnDrift:
    """The schema check of one column, before any score."""
    row = ColumnDrift(column.name, column.kind, METHODS[column.kind], None, None, 0.0, 0.0, None, "")
    for frame, name in ((reference, "reference"), (current, "current window")):
        if column.name not in frame:
            return replace(row, problem="no_column", message=f"the {name} has no column {column.name!r}")
    kinds = {column.name: column.kind}
    absent_ref = float(_typed(reference, kinds)[column.name].isna().mean())
    absent = float(_typed(current, kinds)[column.name].isna().mean())
    row = replace(row, missing_share=absent, reference_missing_share=absent_ref)
    for share, name in ((absent_ref, "reference"), (absent, "current window")):
        if share == 1.0:
            what = "number" if column.kind == "numeric" else "value"
            return replace(row, problem="no_values", message=f"no {what} in any row of the {name}")
    return row


def _typed(frame: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Columns as plain floats and strings; what is no finite number counts as missing.

    Decimal, text and inf crash Evidently's whole report, and 1 against "1" would be a drift that only the file format
    made.
    """
    typed = {}
    for name, kind in kinds.items():
        values = frame[name]
        if kind == "numeric":
            typed[name] = pd.to_numeric(values, errors="coerce").astype("float64").replace([np.inf, -np.inf], np.nan)
        else:
            typed[name] = values.astype(object).where(values.notna(), None).map(str, na_action="ignore")
    return pd.DataFrame(typed, index=frame.index)


def _users(frame: pd.DataFrame, user: str) -> int:
    return int(frame[user].nunique()) if user in frame else 0


def _too_little(reference: pd.DataFrame, current: pd.DataFrame, user: str) -> str | None:
    for frame, name, times in ((reference, "reference", 2), (current, "current window", 1)):
        if user not in frame:
            return f"the {name} has no column {user!r}, and drift is judged by users"
        rows, users = len(frame), _users(frame, user)
        if rows < MIN_ROWS * times or users < MIN_USERS * times:
            return (
                f"the {name} has {rows} rows of {users} users; at least {MIN_ROWS * times} rows of "
                f"{MIN_USERS * times} users are needed"
            )
    return None


def _sample(frame: pd.DataFrame, user: str) -> pd.DataFrame:
    """Whole users, chosen by a hash so that every window keeps the same ones, down to about MAX_ROWS rows."""
    if len(frame) <= MAX_ROWS:
        return frame
    position = pd.util.hash_array(frame[user].astype(str).to_numpy(dtype=object)) / 2.0**64
    return frame[position < MAX_ROWS / len(frame)]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: an exporter may read the file at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(unfinished, path)
