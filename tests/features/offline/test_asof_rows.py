"""Rows of Parquet files by number, and which files of a folder are its parts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.engine import parquet_files
from features.offline.asof_job import ParquetRows

PROPERTY = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(
    numbers=st.lists(st.none() | st.integers(0, 39), max_size=30),
    then=st.lists(st.none() | st.integers(0, 39), max_size=5),
)
def test_rows_come_as_asked_for(tmp_path, numbers, then):
    if not (tmp_path / "parts").exists():
        (tmp_path / "parts").mkdir()
        for i in range(4):
            rows = pa.table({"skip": [0] * 10, "value": [[10.0 * i + j] for j in range(10)]})
            pq.write_table(rows, tmp_path / "parts" / f"{i}.parquet", row_group_size=3)
    rows = ParquetRows(tmp_path / "parts", ["value"])
    for asked in (numbers, then, numbers):
        taken = rows.take(pa.array(asked, pa.int64()))
        assert taken["value"].to_pylist() == [None if n is None else [float(n)] for n in asked]


def test_parts_are_found_in_order_and_rubbish_is_not(tmp_path):
    for name in (
        "b/part-1.parquet",
        "a/part-2.parquet",
        "_temporary/part-0.parquet",
        "a/_temporary/0/part-0.parquet",
        "a/.part-3.parquet",
        "a/.part-2.parquet.crc",
        "_SUCCESS",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in parquet_files(tmp_path)] == [
        "a/part-2.parquet",
        "b/part-1.parquet",
    ]
