"""Tests that the database of a lake writes files in bounded memory."""

from pathlib import Path

import duckdb
import pytest

from features.collect import database
from mtorl.log.lake import Lake


def test_an_hour_that_exceeds_memory_is_sorted_into_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_MEMORY", "150MB")
    rows = """SELECT TIMESTAMPTZ '2026-03-01T00:00:00Z' + to_hours(if(i % 100 = 0, 1, 0)) AS hour, i % 70 AS bucket,
              hash(i) AS id, repeat(md5(i::VARCHAR), 40) AS text FROM range(400_000) AS t(i)"""
    with database.open_duckdb(Lake.open(tmp_path)) as db:
        written = db.write_hours(
            rows,
            ("bucket", "id"),
            lambda hour, number, of: f"{hour:%H}-{number}-{of}.parquet",
            once=lambda table: f"SELECT * FROM {table} WHERE id % 2 = 0",
        )
    assert written == ["00-0-1.parquet", "01-0-1.parquet"]
    with duckdb.connect() as db:
        wanted = db.execute(f"SELECT * EXCLUDE (text) FROM ({rows}) WHERE id % 2 = 0 ORDER BY ALL").fetchall()
        found = [
            row
            for name in written
            for row in db.execute(f"SELECT * EXCLUDE (text) FROM '{tmp_path / name}'").fetchall()
        ]
    assert found == wanted
