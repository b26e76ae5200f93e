"""Training, validation and test rows with their windows, under a protocol.

    user    whole users are held out: 80 % train, 10 % val, 10 % test. Different folds test on different users.
    time    rows before the 80 % quantile of time are train, those up to the 90 % quantile val, later ones test. Users
            are in all splits, and a test row's window includes its user's training rows, as on a server.

Each row is evaluated once, with exactly the history that a server would have had.

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
    """Touchpoints with their windows."""

    windows: WindowBatch  # one window per row, with targets
    rows: pd.DataFrame  # as in `WindowTable.rows`


@dataclass(frozen=True)
class Task:
    """A data set under a protocol."""

    spec: DatasetSpec
    encoder: Encoder
    tiles: WindowBatch  # training windows that cover each training row once, for sequence models
    val_tiles: WindowBatch  # validation windows that cover each validation row once
    train: Rows
    val: Rows
    test: Rows
    table: WindowTable  # all rows, with the protocol's split


def by_user(table: WindowTable, fold: int) -> Task:
    """Hold out users: fold 0 to 9 tests on one tenth of the users, and validates on the next tenth."""
    bucket = folds_of(table.rows["user_id"], FOLDS)
    split = np.full(len(bucket), "train", dtype=object)
    split[bucket == fold % FOLDS] = "test"
    split[bucket == (fold + 1) % FOLDS] = "val"
    table = replace(table, rows=table.rows.assign(split=split))
    parts = {name: Rows(table.windows(name, targets=True), table.rows[table.is_in(name)]) for name in _PARTS}
    tiles = table.tiles("train")
    return Task(table.spec, Encoder.fit(tiles, table.spec), tiles, table.tiles("val"), **parts, table=table)


def by_time(table: WindowTable) -> Task:
    """Hold out the end of the log."""
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
    """Return windows whose only target is their last token, so that each row counts once."""
    assert windows.targets is not None
    valid_N: Bools = np.zeros(len(windows.row_N), dtype=np.bool_)
    valid_N[np.cumsum(windows.length_B) - 1] = True
    return replace(windows, targets=replace(windows.targets, valid_N=valid_N))
