"""Reads a windows folder, which contains the touchpoints of a log, for training and evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtorl.drift.reference import stretches
from mtorl.log import columns as read
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import SHARES, fractions_of, split_of, tile_ends
from mtorl.log.touchpoints import COLLECTED, CREATED
from mtorl.runtime.files import sha256_of
from mtorl.runtime.messages import DAMAGED, OTHER_SCHEMA
from mtorl.window.messages import LACKS_COLUMNS
from mtorl.window.on_demand import StepWindows
from mtorl.window.window import WindowBatch

SCHEMA_VERSION = 1  # version of manifest.json
MOST_HELD_OUT = 500_000
"""Approximate limit for the touchpoints of held-out users with which a model is calibrated and evaluated. More
touchpoints would hardly make the results more precise."""

_TEXT = ("user_id", "channel")


@dataclass(frozen=True)
class WindowTable:
    """The touchpoints of a windows folder, grouped by user and sorted by time.

    Attributes:
        steps: Touchpoints with the columns that windows need.
        rows: The same touchpoints for pandas, without context and static columns. The column "split" has the user's
            split, and "collected" marks decisions of this project's policies.
        fingerprint: Fingerprint of the log from which the folder was built.
        share: Fraction of the users that this table contains.
    """

    steps: pa.Table
    rows: pd.DataFrame
    spec: DatasetSpec
    fingerprint: str
    share: float = 1.0

    @classmethod
    def load(cls, folder: str | Path, split: str = "", file: str = "", most: int = 0) -> WindowTable:
        """Read a windows folder.

        Args:
            split: "train", "val" or "test" reads only the users of this split; "" reads all users.
            file: Name of one file (shard) to read; "" reads all files.
            most: Approximate number of touchpoints above which users are sampled. 0 means no limit.

        Raises:
            WindowError: The files differ from the manifest.
        """
        path = Path(folder)
        manifest = _manifest(path)
        spec = DatasetSpec.load(path / "dataset.yaml")
        listed = [shard for shard in manifest["shards"] if file in ("", shard["file"])]
        rows = sum(shard["rows"] for shard in listed) * dict(SHARES).get(split, 1.0)
        share = min(1.0, most / rows) if most and rows else 1.0
        # Each shard is a random sample of the users, so the first shards are a fair sample.
        opened = listed[: math.ceil(share * len(listed))]
        parts = [_read(path, shard, spec) for shard in opened]
        if split:
            parts = [part.filter(pa.array(_of_users(part, split_of) == split)) for part in parts]
        if share < 1:
            of_opened = share * len(listed) / len(opened)
            drawn = [_of_users(part, lambda users: fractions_of(users, "held out")) < of_opened for part in parts]
            parts = [part.filter(pa.array(kept)) for part, kept in zip(parts, drawn, strict=True)]
        # Two shards may differ in whether a column may contain nulls. "default" accepts both.
        steps = pa.concat_tables(parts, promote_options="default")
        return cls(steps, _rows(steps, spec), spec, manifest["log_fingerprint"], share)

    def is_in(self, split: str) -> NDArray[np.bool_]:
        """Return a mask of the rows whose user belongs to a split."""
        return (self.rows["split"] == split).to_numpy()

    def windows(self, split: str, targets: bool = False) -> WindowBatch:
        """Build one window for each touchpoint of a split."""
        return WindowBatch.from_steps(self._steps(split), None, self.spec, targets)

    def on_demand(self, split: str, targets: bool = False) -> StepWindows:
        """Like `windows`, but each window is built only when it is read."""
        steps = self._steps(split)
        return StepWindows(steps, np.arange(len(steps)), self.spec, targets)

    def tiles(self, split: str) -> WindowBatch:
        """Build windows for training in which each touchpoint of a split is a valid target exactly once.

        A touchpoint gets its own window if the shared window contains touchpoints that were recorded after its
        decision.
        """
        steps, rows = self._steps(split), self.rows[self.is_in(split)]
        chosen = tile_ends(rows["step"].to_numpy(), self.spec.window)
        batch, uses = self._with_targets(steps, chosen)
        if (uses == 1).all():
            return batch
        batch, _ = self._with_targets(steps, chosen | (uses == 0))
        assert batch.targets is not None
        # The added windows overlap with the others, so keep each touchpoint as a valid target only once.
        valid_N = np.flatnonzero(batch.targets.valid_N)
        _, first = np.unique(batch.targets.touchpoint_N[valid_N], return_index=True)
        once_N = np.zeros(len(batch.targets.valid_N), dtype=np.bool_)
        once_N[valid_N[first]] = True
        return replace(batch, targets=replace(batch.targets, valid_N=once_N))

    def reference(self, share: float) -> pd.DataFrame:
        """Return a `share` of each training user's touchpoints, with which the drift monitor compares new data."""
        drawn = stretches(self.rows.loc[self.is_in("train"), "user_id"], share)
        columns = ["user_id", *(column.name for column in (*self.spec.context, *self.spec.static))]
        return _frame(self._steps("train").select(columns).filter(pa.array(drawn)))

    def _steps(self, split: str) -> pa.Table:
        return self.steps.filter(pa.array(self.is_in(split)))

    def _with_targets(self, steps: pa.Table, chosen: NDArray[np.bool_]) -> tuple[WindowBatch, NDArray[np.int64]]:
        """Build the windows that end with the `chosen` steps, and count each step's valid targets."""
        batch = WindowBatch.from_steps(steps, np.flatnonzero(chosen), self.spec, targets=True)
        assert batch.targets is not None
        return batch, np.bincount(batch.targets.touchpoint_N[batch.targets.valid_N], minlength=len(steps))


def shards(folder: str | Path) -> tuple[str, ...]:
    """Return the names of the files (shards) of a windows folder.

    Raises:
        WindowError: The folder or its manifest is missing or invalid.
    """
    return tuple(shard["file"] for shard in _manifest(Path(folder))["shards"])


def touchpoints_per_user(folder: str | Path) -> float:
    """Return the mean number of touchpoints per user in a windows folder.

    Raises:
        WindowError: The folder or its manifest is missing or invalid.
    """
    listed = _manifest(Path(folder))["shards"]
    return float(sum(shard["rows"] for shard in listed) / max(sum(shard["users"] for shard in listed), 1))


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        manifest: Mapping[str, Any] = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError:
        raise WindowError(f"{path}: no windows folder (no manifest.json); create one with `mtorl data build`") from None
    except ValueError as error:
        raise WindowError(f"{path / 'manifest.json'}: not JSON: {error}") from None
    if manifest["schema_version"] != SCHEMA_VERSION:
        version = manifest["schema_version"]
        raise WindowError(OTHER_SCHEMA(file=path, version=version, known=SCHEMA_VERSION))
    total = sum(shard["rows"] for shard in manifest["shards"])
    if total != manifest["rows"]:
        raise WindowError(f"{path}: {manifest['rows']} rows in the manifest, {total} in its shards; rebuild the folder")
    return manifest


def _read(path: Path, shard: Mapping[str, Any], spec: DatasetSpec) -> pa.Table:
    file = path / shard["file"]
    columns = (*spec.context, *spec.static, *spec.feature_columns)
    text = [*_TEXT, *(c.name for c in columns if c.kind == "categorical")]
    outcomes = (*spec.window_outcomes, *spec.outcome_times.values())
    names = ["user_id", "timestamp", "step", "channel", *outcomes, "propensity", *(c.name for c in columns)]
    try:
        sha256 = sha256_of(file)
    except FileNotFoundError:
        raise WindowError(f"{file}: named in the manifest, but missing; rebuild the folder") from None
    if sha256 != shard["sha256"]:
        raise WindowError(DAMAGED(file=file))
    with pq.ParquetFile(file, read_dictionary=text) as parquet:
        there = parquet.schema_arrow.names
        absent = [name for name in names if name not in there]
        if absent:
            raise WindowError(LACKS_COLUMNS(steps=file, columns=absent))
        return parquet.read(names + [name for name in (CREATED, COLLECTED) if name in there])


def _rows(steps: pa.Table, spec: DatasetSpec) -> pd.DataFrame:
    rows = _frame(steps.select(["user_id", "timestamp", "step", "channel", *spec.window_outcomes, "propensity"]))
    rows["split"] = _of_users(steps, split_of).astype(object)
    rows["collected"] = read.arrow_flags(steps, COLLECTED)
    return rows


def _of_users(steps: pa.Table, of: Callable[[tuple[str, ...]], NDArray[Any]]) -> NDArray[Any]:
    users = read.arrow_codes(read.flat(steps["user_id"]), "user_id")
    return of(users.values)[users.codes]


def _frame(table: pa.Table) -> pd.DataFrame:
    """Convert an Arrow table to pandas. Rows with equal texts share one string, which saves memory."""
    frame: pd.DataFrame = table.to_pandas()
    for name, kind in frame.dtypes.items():
        if isinstance(kind, pd.CategoricalDtype):
            frame[name] = frame[name].astype(object)
    return frame
