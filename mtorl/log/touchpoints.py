"""Defines the canonical touchpoint log: its Arrow types, its writer and its fingerprint.

Each row is one touchpoint, which is one exposure. Rows are sorted by user_id and timestamp, and a user has no two rows
with the same timestamp. Timestamps are in UTC with microseconds. Cost and revenue are in currency units.
"""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtorl.log.dataset import DatasetSpec
from mtorl.log.sources import TOUCHPOINT_ID
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing

LOG_FILE, DATASET_FILE, INGEST_FILE = "touchpoints.parquet", "dataset.yaml", "ingest.json"
"""Names of the files in a log's folder: the canonical log, its description, and the results of validating the raw log.
"""

CREATED, COLLECTED = "created_timestamp", "collected"
_TIME = pa.timestamp("us", tz="UTC")


class LogError(InputError):
    """Raised if a log can't be used; the message explains the fix."""


def schema(spec: DatasetSpec, columns: Collection[str] = ()) -> pa.Schema:
    """Return the Arrow types of the canonical log, with those optional columns that are in `columns`."""
    times = [name for name in spec.optional_columns if name in columns and name != TOUCHPOINT_ID]
    own = {COLLECTED: pa.bool_()} if COLLECTED in columns else {}
    kinds = {"numeric": pa.float64(), "categorical": pa.string()}
    types = {
        **dict.fromkeys(("user_id", "campaign_id", "channel"), pa.string()),
        **dict.fromkeys(("timestamp", *times), _TIME),
        **dict.fromkeys(("cost", "revenue", "propensity"), pa.float64()),
        **dict.fromkeys(("click", "conversion"), pa.int64()),
        **{c.name: kinds[c.kind] for c in (*spec.context, *spec.static, *spec.outcomes)},
        **own,
    }
    return pa.schema([(name, types[name]) for name in (*spec.log_columns, *times, *own)])


def write_log(log: pd.DataFrame, path: str | Path, spec: DatasetSpec) -> None:
    """Write a canonical log to a Parquet file atomically.

    Raises:
        LogError: a column is missing in the log.
    """
    missing = [name for name in spec.log_columns if name not in log]
    if missing:
        raise LogError(f"{path}: the log lacks the columns {', '.join(missing)}")
    types = schema(spec, log.columns)
    table = pa.Table.from_pandas(log[types.names], schema=types, preserve_index=False)
    with replacing(Path(path)) as unfinished:
        pq.write_table(table.replace_schema_metadata(None), unfinished, compression="zstd")


class ColumnDigest:
    """A digest of a column that does not depend on how writers store the values."""

    def __init__(self) -> None:
        self._values, self._lengths, self._nulls = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        # Digest of the items, for a column of lists.
        self._items: ColumnDigest | None = None
        self._rows = 0

    def update(self, array: pa.Array) -> None:
        """Add the next values of the column: numbers, times, texts, or lists of these."""
        if array.null_count:
            self._nulls.update((np.flatnonzero(array.is_null().to_numpy(False)) + self._rows).astype("<i8").tobytes())
        self._rows += len(array)
        if pa.types.is_list(array.type):
            self._items = self._items or ColumnDigest()
            self._items.update(array.flatten())
            self._lengths.update(pc.list_value_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        elif pa.types.is_string(array.type):
            # Arrow may store bytes for a null between two texts, which `fill_null` removes.
            array = array.fill_null("") if array.null_count else array
            offsets = np.frombuffer(array.buffers()[1] or b"", "<i4")[array.offset : array.offset + len(array) + 1]
            if len(array) and (data := array.buffers()[2]):
                self._values.update(memoryview(data)[offsets[0] : offsets[-1]])
            self._lengths.update(pc.binary_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        else:
            filled = array.fill_null(pa.scalar(0, pa.int64()).cast(array.type)) if array.null_count else array
            self._values.update(np.ascontiguousarray(filled.to_numpy(False)).view("u1").data)

    def hexdigest(self) -> str:
        """Return the digest of all values so far."""
        items = self._items.hexdigest() if self._items else ""
        return f"{self._values.hexdigest()}:{self._lengths.hexdigest()}:{self._nulls.hexdigest()}:{items}"


def fingerprint(log: pd.DataFrame | Iterable[pa.RecordBatch]) -> str:
    """Return the SHA-256 of the content of a canonical log, as hexadecimal digits."""
    if isinstance(log, pd.DataFrame):
        return fingerprint(pa.Table.from_pandas(log, preserve_index=False).to_batches())
    columns: dict[str, ColumnDigest] = {}
    batch: pa.RecordBatch
    for batch in log:
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            columns.setdefault(name, ColumnDigest()).update(_in_one_type(values))
    text = "\n".join(f"{name}:{column.hexdigest()}" for name, column in columns.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _in_one_type(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_timestamp(kind):
        return values.cast(_TIME).cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        numbers = values.cast(pa.float64())
        return pc.if_else(pc.is_nan(numbers), None, numbers)
    return values.cast(pa.string())
