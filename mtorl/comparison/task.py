"""Divides a data set into training, validation and test rows by one of two protocols.

    user    80 % of the users are in the training, 10 % in the validation, 10 % in the test. Different folds test on
            different users.
    time    The first 80 % of the rows in time order are in the training, the next 10 % in the validation, the last 10 %
            in the test. One user can be in all three. The window of a test row includes the user's training rows,
            because a server would have them, too.

Each test row is evaluated once, with exactly the history that a server would have had.

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

    windows: WindowBatch  # one window per touchpoint, with targets
    rows: pd.DataFrame  # the touchpoints, with the columns of `WindowTable.rows`


@dataclass(frozen=True)
class Task:
    """A data set that is divided into training, validation and test rows by a protocol."""

    spec: DatasetSpec
    encoder: Encoder
    tiles: WindowBatch  # windows to train sequence models; each training row is a target in exactly one of them
    # windows to validate sequence models; each validation row is a target in exactly one of them
    val_tiles: WindowBatch
    train: Rows
    val: Rows
    test: Rows
    table: WindowTable  # all rows, with the protocol's split


def by_user(table: WindowTable, fold: int) -> Task:
    """Divide a data set by users: one tenth of the users for the test, and the next tenth for the validation.

    Args:
        table: All rows of the data set.
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
    """Divide a data set by time: the last tenth of the log for the test, and the tenth before it for the validation."""
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

    The windows of one user overlap, so a row could otherwise be a target in several windows.
    """
    assert windows.targets is not None
    valid_N: Bools = np.zeros(len(windows.row_N), dtype=np.bool_)
    valid_N[np.cumsum(windows.length_B) - 1] = True
    return replace(windows, targets=replace(windows.targets, valid_N=valid_N))
