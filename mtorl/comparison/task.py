"""Divides a data set into training (80 %), validation (10 %) and test rows (10 %), by users or by time.

If the data set is divided by time, a user can have rows in all three parts. The window of a test
row then includes the user's training rows, as on a server.

Shapes: B rows, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from mtorl.arrays import Bools
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import folds_of
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch

FOLDS = 10
_PARTS = ("train", "val", "test")
_EDGES = (0.8, 0.9)  # quantiles of time


@dataclass(frozen=True)
class Rows:
    """The touchpoints of one part of a data set, with the window of each touchpoint."""

    windows: WindowBatch  # one per touchpoint, with targets
    rows: pd.DataFrame  # the touchpoints, with the columns of `WindowTable.rows`


@dataclass(frozen=True)
class Task:
    """A data set that is divided into training, validation and test rows."""

    spec: DatasetSpec
    encoder: Encoder
    tiles: WindowBatch  # windows in which each training row is a target exactly once
    # The windows in which each validation row is a target exactly once.
    val_tiles: WindowBatch
    train: Rows
    val: Rows
    test: Rows
    table: WindowTable  # all rows, with the protocol's split


def by_user(table: WindowTable, fold: int) -> Task:
    """Divide a data set by users: one tenth of the users for the test, and the next tenth for validation.

    Args:
        fold: Number from 0 to 9 that selects the tenth for the test.
    """
    bucket = folds_of(table.rows["user_id"], FOLDS)
    split = np.full(len(bucket), "train", dtype=object)
    split[bucket == fold % FOLDS] = "test"
    split[bucket == (fold + 1) % FOLDS] = "val"
    table = replace(table, rows=table.rows.assign(split=split))
    parts = {name: Rows(table.windows(name, targets=True), table.rows[table.is_in(name)]) for name in _PARTS}
    tiles = table.tiles("train")
    return Task(table.spec, Encoder.fit(tiles, table.spec), tiles, table.tiles("val"), **parts, table=table)


def by_time(table: WindowTable) -> Task:
    """Divide a data set by time: the last tenth of the rows for the test, the tenth before it for validation."""
    time = table.rows["timestamp"].astype("int64").to_numpy()
    edges = np.quantile(time, _EDGES)
    split = np.array(_PARTS, dtype=object)[np.searchsorted(edges, time, side="right")]
    table = replace(table, rows=table.rows.assign(split=split))
    parts = {}
    for name in _PARTS:
        in_part_B = table.is_in(name)
        windows = WindowBatch.from_steps(table.steps, np.flatnonzero(in_part_B), table.spec, targets=True)
        parts[name] = Rows(windows, table.rows[in_part_B])
    train_B = table.is_in("train")
    train = replace(table, steps=table.steps.filter(pa.array(train_B)), rows=table.rows[train_B])
    tiles = train.tiles("train")
    val = last_only(parts["val"].windows)
    return Task(table.spec, Encoder.fit(tiles, table.spec), tiles, val, **parts, table=table)


def last_only(windows: WindowBatch) -> WindowBatch:
    """Return the windows with only the last token of each window as a target.

    The windows of a user overlap, so a row could otherwise be a target several times.
    """
    assert windows.targets is not None
    valid_N: Bools = np.zeros(len(windows.row_N), dtype=np.bool_)
    valid_N[np.cumsum(windows.length_B) - 1] = True
    return replace(windows, targets=replace(windows.targets, valid_N=valid_N))
