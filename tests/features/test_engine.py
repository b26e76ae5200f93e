from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.engine import BUCKETS, open_engine, timestamp_micros, unix_micros, user_bucket

ENGINES = ["duckdb", pytest.param("spark", marks=pytest.mark.long)]


def rows(size: int = 60) -> pa.Table:
    rng = np.random.default_rng(0)
    micros = 1_700_000_000_000_000 + rng.permutation(size) * 999_999_999
    return pa.table(
        {
            "user_id": [f"ü{i}" for i in rng.integers(0, 12, size)],
            "timestamp": pa.array(micros, pa.timestamp("us", "UTC")),
            "value": pa.array(rng.random(size), mask=rng.random(size) < 0.2),
        }
    )


def by_key(table: pa.Table) -> pa.Table:
    return table.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])


@pytest.mark.parametrize("name", ENGINES)
def test_a_written_table_can_be_read_and_replaces_the_previous_one(tmp_path, name):
    pq.write_table(rows(), tmp_path / "log.parquet")
    with open_engine(name) as engine:
        assert engine.name == name
        for least in (0.0, 0.5):
            log = engine.read(tmp_path / "log.parquet")
            engine.write(log.filter(log.value >= least).order_by("value"), tmp_path / "out.parquet")
            found = engine.read(tmp_path / "out.parquet").to_pyarrow()
            expected = rows().to_pandas().query("value >= @least").sort_values("value")
            assert sorted(found["value"].to_pylist()) == expected["value"].tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"log.parquet", "out.parquet"}, "temporary files are left"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("shards", [1, 3])
def test_shards_contain_whole_users_in_order(tmp_path, name, shards):
    pq.write_table(rows(), tmp_path / "log.parquet")
    told: list[Path] = []
    with open_engine(name) as engine:
        log = engine.read(tmp_path / "log.parquet")
        engine.write_shards(log, lambda part: part, tmp_path / "out", shards, told.append)
        bucket = engine.connection.to_pyarrow(log.select("user_id", bucket=user_bucket(log.user_id)).distinct())
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in told] == [path.name for path in files]
    shard_of = {u: b * shards // BUCKETS for u, b in zip(*bucket.to_pydict().values(), strict=True)}
    for path in files:
        part = pq.read_table(path)
        assert part.equals(by_key(part))
        assert {shard_of[user] for user in part["user_id"].to_pylist()} == {int(path.stem.split("-")[1])}
    together = pa.concat_tables(pq.read_table(path) for path in files)
    assert by_key(together.cast(rows().schema)).equals(by_key(rows()))


@pytest.mark.parametrize("name", ENGINES)
def test_times_are_exact_to_the_microsecond(tmp_path, name):
    micros = [-2_208_988_799_999_999, -1, 0, 1, 1_700_000_000_123_457, 4_102_444_800_000_001]
    pq.write_table(pa.table({"time": pa.array(micros, pa.timestamp("us", "UTC"))}), tmp_path / "t.parquet")
    with open_engine(name) as engine:
        table = engine.read(tmp_path / "t.parquet")
        table = table.mutate(micros=unix_micros(table.time))
        found = table.mutate(again=timestamp_micros(table.micros)).to_pyarrow()
    assert sorted(found["micros"].to_pylist()) == micros
    assert found["again"].cast(pa.int64()).to_pylist() == found["micros"].to_pylist()


def test_a_users_bucket_depends_on_nothing_but_the_id(tmp_path):
    import hashlib

    users = ["", "u1", "ü", "a longer id with blanks", "漢字"]
    pq.write_table(pa.table({"user_id": users}), tmp_path / "u.parquet")
    with open_engine("duckdb") as engine:
        table = engine.read(tmp_path / "u.parquet")
        found = table.select("user_id", bucket=user_bucket(table.user_id)).to_pyarrow()
    for user, bucket in zip(*found.to_pydict().values(), strict=True):
        digest = hashlib.md5(user.encode()).digest()
        assert bucket == digest[14] + 256 * digest[15]


def test_the_engine_is_chosen_by_the_environment(monkeypatch):
    monkeypatch.delenv("ENGINE", raising=False)
    with open_engine() as engine:
        assert engine.name == "duckdb"
    monkeypatch.setenv("ENGINE", "polars")
    with pytest.raises(ValueError, match="'polars'"), open_engine():
        pass


PYTHON_IN_SPARK = """
from pyspark.sql import SparkSession
from features.engine import open_engine
with open_engine("spark"):
    print(SparkSession.active().range(1).mapInArrow(lambda batches: batches, "id long").count())
"""


@pytest.mark.long
def test_spark_uses_this_interpreter_not_the_paths_python3(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "PYSPARK_PYTHON"}
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run([sys.executable, "-c", PYTHON_IN_SPARK], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr[-2000:]
