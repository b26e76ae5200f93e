"""The windows table of a log: what training and evaluation read, split by user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mtorl.dataset import DatasetSpec
from mtorl.splits import tile_ends
from mtorl.windows import WindowBatch

REFERENCE_TOUCHES = 5  # last touchpoints per training user: what the policy meets next, as far as the log can tell


@dataclass(frozen=True)
class WindowTable:
    """One row per touchpoint, with its strictly past history in ``hist_*`` list columns.

    Attributes:
        table: All columns.
        rows: The columns that are not lists, for pandas.
        spec: Description of the data set.
        fingerprint: sha256 of the log that the table was made from.
    """

    table: pa.Table
    rows: pd.DataFrame
    spec: DatasetSpec
    fingerprint: str

    @classmethod
    def load(cls, folder: str) -> WindowTable:
        """Read a folder written by the features room (windows.parquet, dataset.yaml, fingerprint)."""
        path = Path(folder)
        table = pq.read_table(path / "windows.parquet")
        scalars = [name for name in table.column_names if not name.startswith("hist_")]
        return cls(
            table,
            table.select(scalars).to_pandas(),
            DatasetSpec.load(str(path / "dataset.yaml")),
            (path / "fingerprint").read_text().strip(),
        )

    def is_in(self, split: str) -> NDArray[np.bool_]:
        """Rows whose user belongs to a split ("train", "val" or "test")."""
        return (self.rows["split"] == split).to_numpy()

    def windows(self, split: str) -> WindowBatch:
        """The window of every touchpoint of a split: what a server would have seen each time."""
        return WindowBatch.from_joined(self.table.filter(pa.array(self.is_in(split))), self.spec)

    def tiles(self, split: str) -> WindowBatch:
        """Windows that cover each touchpoint of a split exactly once, with targets at every token."""
        ends = tile_ends(self.rows["step"].to_numpy(), self.rows["journey"].to_numpy(), self.spec.window)
        chosen = pa.array(self.is_in(split) & ends)
        return WindowBatch.from_joined(self.table.filter(chosen), self.spec, targets=True)

    def reference(self) -> pd.DataFrame:
        """User, context and static columns of the last touchpoints of training users; drift is measured against it."""
        rows = self.rows[self.is_in("train")]
        last = rows["journey"] - rows["step"] <= REFERENCE_TOUCHES
        columns = [column.name for column in (*self.spec.context, *self.spec.static)]
        return rows.loc[last, ["user_id", *columns]].reset_index(drop=True)
