"""Finds columns that are valid row by row, but unusable for training, such as a cost that is always 0."""

from collections.abc import Iterator
from dataclasses import dataclass

import ibis
import numpy as np
import pandas as pd

from features import messages
from features.ingest.adapters.files import ROW
from mtorl.log.dataset import OWN, Column, DatasetSpec
from mtorl.log.messages import NO_COST
from mtorl.log.touchpoints import LogError

# A column is checked only if the sample has at least this many rows with the outcome, and as many without it.
LEAST = 20
# Largest number of rows to sample with the outcome, and again without it.
_MOST = 20_000
_SURE = 0.99
_BINS = 100
# A number with decimals. Whole numbers, even 1.0, do not match, because they may be codes.
_DECIMAL = r"^\s*[+-]?\d*\.\d*[1-9]\d*([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True)
class Leak:
    """A column that reveals an outcome, for example because it is recorded after the outcome."""

    column: str
    outcome: str
    how: str

    def __str__(self) -> str:
        return f"context or static column {self.column!r} determines {self.outcome} ({self.how})"


def check(good: ibis.Table, spec: DatasetSpec) -> tuple[str, ...]:
    """Check the columns of a log, given its valid rows. Returns warnings for the user.

    Raises:
        LogError: All costs are 0, or a column reveals an outcome.
    """
    texts = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    decimals = {f"decimal{i}": good[name].re_search(_DECIMAL).sum() for i, name in enumerate(texts)}
    present = {f"present{i}": good[name].notnull().sum() for i, name in enumerate(texts)}
    totals = good.agg(cost=good["cost"].sum(), **decimals, **present).to_pyarrow().to_pylist()[0]
    if totals["cost"] == 0:
        raise LogError(NO_COST(column=_called("cost", spec)))
    if found := leaks(good, spec):
        raise LogError(messages.LEAKS(leaks=found))
    decimal = [
        _called(name, spec)
        for i, name in enumerate(texts)
        if (totals[f"decimal{i}"] or 0) > 0.5 * (totals[f"present{i}"] or 0)
    ]
    if not decimal or spec.adapter != OWN:  # the layout of a built-in data set is fixed
        return ()
    return (messages.DECIMAL_CATEGORIES(columns=decimal),)


def leaks(good: ibis.Table, spec: DatasetSpec) -> list[Leak]:
    """Return the context and static columns that reveal an outcome, exactly or nearly."""
    inputs = (*spec.context, *spec.static)
    # The cost may be known before the decision.
    outcomes = [name for name in spec.outcome_kinds if name != "cost"]
    if not inputs:
        return []
    counts = good.agg(
        **{f"with{i}": (good[name] > 0).fill_null(False).sum() for i, name in enumerate(outcomes)}, rows=good.count()
    )
    counted = counts.to_pyarrow().to_pylist()[0]
    sampled, every = {}, {}
    for i, name in enumerate(outcomes):
        some = int(counted[f"with{i}"] or 0)
        if some == 0:
            continue
        happened = (good[name] > 0).fill_null(False)
        every[name] = (-(-some // _MOST), max(1, -(-(counted["rows"] - some) // _MOST)))
        sampled[f"drawn:{name}"] = good[ROW] % ibis.ifelse(happened, *every[name]) == 0
    if not every:
        return []
    rows = good.mutate(**sampled).filter(ibis.or_(*(ibis._[name] for name in sampled)))
    frame = rows.select(*(column.name for column in inputs), *every, *sampled).to_pandas()
    found = []
    for column in inputs:
        for name, weights in every.items():
            drawn = frame[frame[f"drawn:{name}"]]
            if how := next(_determines(drawn, column, name, weights), ""):
                found.append(Leak(_called(column.name, spec), name, how))
                break
    return found


def _determines(rows: pd.DataFrame, column: Column, outcome: str, every: tuple[int, int]) -> Iterator[str]:
    """Yield a description of each way in which a column reveals an outcome, for example a high AUC."""
    value, amount = rows[column.name], rows[outcome].to_numpy(dtype=float)
    y = amount > 0
    if column.kind == "numeric" and len(np.unique(amount)) > 2:
        known = value.notna().to_numpy()
        x, z = value.to_numpy(dtype=float)[known], amount[known]
        if len(x) >= LEAST and x.std() > 0 and z.std() > 0 and abs(np.corrcoef(x, z)[0, 1]) > 1 - 1e-9:
            yield "equal after scaling"
    if min(y.sum(), (~y).sum()) < LEAST:
        return
    if column.kind == "numeric":
        score = value.fillna(value.min() - 1)
        auc = _auc(score.to_numpy(dtype=float), y)
        aucs = [auc, 1 - auc]
        # Also compute the AUC of the rates by bin, which is high even if only middle values have the outcome.
        values = (score.rank() * _BINS // (len(y) + 1)).to_numpy()
        marks = np.where(value.fillna(0).to_numpy(dtype=float) != 0, "not 0", "0")
    else:
        aucs = []
        values = marks = value.fillna("").to_numpy(dtype=str)
    if (auc := max(*aucs, _auc(_rates(values, y), y), 0)) > _SURE:
        yield f"the AUC of its value is {auc:.3f}"
    # If most rows have the outcome, all rows with some value may have it by chance.
    if y.sum() * every[0] < (~y).sum() * every[1]:
        names, codes = np.unique(marks, return_inverse=True)
        some = np.bincount(codes, weights=y)
        # Only every `every[1]`-th row without the outcome was sampled. Assume that as many as possible were missed.
        with_it, without = some * every[0], np.bincount(codes, weights=~y) * every[1] + every[1] - 1
        for mark in names[(some >= LEAST) & (with_it > _SURE * (with_it + without))]:
            yield f"the column is {mark} only if the outcome happened"


def _rates(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Estimate the rate of the outcome for the value in each row, from the random half without this row."""
    # A split by every second row fails if rows alternate, for example between two channels.
    half = np.random.default_rng(0).random(len(y)) < 0.5
    _, codes = np.unique(values, return_inverse=True)
    score = np.empty(len(y))
    for own in (half, ~half):
        n = np.bincount(codes[~own], minlength=codes.max() + 1)
        some = np.bincount(codes[~own], weights=y[~own], minlength=codes.max() + 1)
        score[own] = ((some + y.mean()) / (n + 1))[codes[own]]
    return score


def _auc(score: np.ndarray, y: np.ndarray) -> float:
    """Return the AUC: the probability that a row with the outcome has a higher score than a row without it."""
    ranks = pd.Series(score).rank().to_numpy()
    some = int(y.sum())
    return float((ranks[y].sum() - some * (some + 1) / 2) / (some * (len(y) - some)))


def _called(name: str, spec: DatasetSpec) -> str:
    """Return the name that a column of the log has in the file."""
    source = spec.columns.get(name)
    return source.column if source and source.column else name
