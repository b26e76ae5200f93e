"""The touchpoint log as the rest of the project reads it: its Arrow types, how to write it, and its fingerprint.

Every touchpoint is one exposure. The canonical layout is `DatasetSpec.columns`, sorted by (user_id, timestamp) with
times strictly increasing inside a user: timestamp in UTC with microseconds, cost and revenue in currency units, click
and conversion 0 or 1, propensity in (0, 1] or null; text is never empty. A last column `created_timestamp` is there if
the log says when its rows arrived. Raw files become such a log in `features.ingest.ingest`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtorl.log.dataset import DatasetSpec

LOG_FILE, DATASET_FILE, INGEST_FILE = "touchpoints.parquet", "dataset.yaml", "ingest.json"
"""The files of a log's folder: the canonical log, its description, and what validation said of the raw log."""

CREATED = "created_timestamp"
_TIME = pa.timestamp("us", tz="UTC")


class LogError(Exception):
    """The log can't be used; the message says what to mend."""


def schema(spec: DatasetSpec, created: bool = False) -> pa.Schema:
    """Arrow types of the canonical log; `created` adds the time when a row arrived."""
    kinds = {"numeric": pa.float64(), "categorical": pa.string()}
    types = {
        **dict.fromkeys(("user_id", "campaign_id", "channel"), pa.string()),
        **dict.fromkeys(("timestamp", CREATED), _TIME),
        **dict.fromkeys(("cost", "revenue", "propensity"), pa.float64()),
        **dict.fromkeys(("click", "conversion"), pa.int64()),
        **{c.name: kinds[c.kind] for c in (*spec.context, *spec.static, *spec.outcomes)},
    }
    return pa.schema([(name, types[name]) for name in (*spec.columns, *([CREATED] if created else []))])


def write_log(log: pd.DataFrame, path: str | Path, spec: DatasetSpec) -> None:
    """Write a canonical log as Parquet; the file appears complete or not at all.

    Raises:
        LogError: a column is missing.
    """
    missing = [name for name in spec.columns if name not in log]
    if missing:
        raise LogError(f"{path}: the log to write lacks {', '.join(missing)}")
    types = schema(spec, CREATED in log)
    table = pa.Table.from_pandas(log[types.names], schema=types, preserve_index=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(log: pd.DataFrame | Iterable[pa.RecordBatch]) -> str:
    """BLAKE2b (hex) of a canonical log's content: the same for equal data, however it is stored or cut into batches."""
    if isinstance(log, pd.DataFrame):
        return fingerprint(pa.Table.from_pandas(log, preserve_index=False).to_batches())
    columns: dict[str, _Digest] = {}
    batch: pa.RecordBatch
    for batch in log:
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            columns.setdefault(name, _Digest()).update(values)
    digest = hashlib.blake2b(digest_size=32)
    for name, column in columns.items():
        digest.update(f"{name}:{column.hexdigest()};".encode())
    return digest.hexdigest()


class _Digest:
    """Running digest of one column: its values, and for text also which are there and how long they are."""

    def __init__(self) -> None:
        self.values = hashlib.blake2b(digest_size=32)
        self.present = hashlib.blake2b(digest_size=32)
        self.lengths = hashlib.blake2b(digest_size=32)

    def update(self, values: pa.Array) -> None:
        kind = values.type
        if pa.types.is_timestamp(kind):
            numbers = values.cast(_TIME).cast(pa.int64()).to_numpy(zero_copy_only=False)
            self.values.update(np.ascontiguousarray(numbers, dtype="<i8").data)
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            floats = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
            self.values.update(np.where(np.isnan(floats), np.nan, floats).astype("<f8").data)
        else:
            text = values.cast(pa.large_string())
            there = text.drop_null()
            self.present.update(text.is_valid().to_numpy(zero_copy_only=False).data)
            self.lengths.update(pc.binary_length(there).to_numpy(zero_copy_only=False).astype("<i8").data)
            self.values.update(_bytes(there))

    def hexdigest(self) -> str:
        return ":".join(part.hexdigest() for part in (self.values, self.present, self.lengths))


def _bytes(text: pa.Array) -> memoryview:
    """The characters of a large_string array without nulls, one after the other."""
    _, offsets, characters = text.buffers()
    if not len(text) or characters is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, dtype=np.int64)
    return memoryview(characters)[ends[text.offset] : ends[text.offset + len(text)]]
