"""Tests that the sequence builder equals a slow loop over users, on irregular logs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from features.engine import open_engine
from features.sequences import builder as sequences
from features.sequences import manifest as manifest_module
from features.sequences.builder import build
from features.sequences.manifest import NOT_IN_ROWS, Manifest, ManifestError, rewrite_shards
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.window.table import WindowTable
from tests.properties import examples

MICROSECOND = pd.Timedelta(1, "us")
PROPERTY = settings(
    max_examples=examples(8, 25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def messy(toy, seed: int, late: float, users: int = 8) -> pd.DataFrame:
    """Return a shuffled log with pauses, duplicates, ties, late rows and changing static values."""
    rng = np.random.default_rng(seed)
    log = toy.log(seed, users=users, late=late)
    log["tenure"] = log["tenure"].where(rng.random(len(log)) < 0.8, rng.choice([np.nan, 1.0, 2.0], len(log)))
    pause = pd.Timedelta(days=toy.spec.journey_gap_days)
    pauses = (pause // MICROSECOND) * rng.choice([0, 0, 0, 1], len(log)) + rng.integers(0, 2, len(log))
    shift = pd.to_timedelta(pd.Series(pauses).groupby(log["user_id"]).cumsum(), "us")
    for name in ("timestamp", "created_timestamp"):
        if name in log:
            log[name] += shift
    ties = log.sample(frac=0.2, random_state=seed)
    ties = ties.assign(channel=rng.choice(toy.spec.channels, len(ties)), cost=rng.random(len(ties)))
    again = log.sample(frac=0.2, random_state=seed + 1)
    if late:
        again["created_timestamp"] += pd.to_timedelta(rng.integers(0, 3, len(again)), "h")
        again["created_timestamp"] = again["created_timestamp"].where(rng.random(len(again)) < 0.7)
    return pd.concat([log, ties, again]).sample(frac=1, random_state=seed, ignore_index=True)


def by_hand(log: pd.DataFrame, spec: DatasetSpec) -> tuple[list[dict[str, Any]], dict[str, int]]:
    counts = dict.fromkeys((*NOT_IN_ROWS, "journeys", "one_touchpoint_users"), 0)
    arrival = log["created_timestamp"].fillna(log["timestamp"]) if "created_timestamp" in log else log["timestamp"]
    log = log.assign(arrival=arrival)
    first = ["timestamp", "campaign_id", "channel", "arrival"]
    further = [*spec.log_columns, *(["created_timestamp"] if "created_timestamp" in log else [])]
    order = [*first, *(name for name in further if name not in (*first, "user_id"))]
    rows = []
    gap = pd.Timedelta(days=spec.journey_gap_days)
    for _, mine in log.groupby("user_id"):
        kept: list[dict[str, Any]] = []
        seen = set()
        moved = 0
        for row in mine.sort_values(order).to_dict("records"):
            key = (row["timestamp"], row["campaign_id"], row["channel"])
            if key in seen:
                counts["dropped_duplicates"] += 1
                continue
            seen.add(key)
            if len(kept) == spec.max_touchpoints:
                counts["dropped_by_cap"] += 1
                continue
            if kept and row["timestamp"] <= kept[-1]["timestamp"]:
                row["timestamp"] = kept[-1]["timestamp"] + MICROSECOND
                moved += 1
            kept.append(row)
        counts["moved_ties"] += moved
        counts["capped_users"] += len(kept) < len(seen)
        counts["one_touchpoint_users"] += len(kept) == 1
        begins = [i for i, row in enumerate(kept) if i == 0 or row["timestamp"] - kept[i - 1]["timestamp"] > gap]
        counts["journeys"] += len(begins)
        known = [max(row["timestamp"], row["arrival"]) for row in kept]
        for i, row in enumerate(kept):
            begin = max(b for b in begins if b <= i)
            counts["late_rows"] += any(known[i] > later for later in known[i + 1 :])
            rows.append(row | {column.name: kept[0][column.name] for column in spec.static} | {"step": i - begin})
    return rows, counts


def values(table: pd.DataFrame) -> list[list[Any]]:
    return [[None if pd.isna(v) else v for v in row] for row in table.astype(object).to_numpy().tolist()]


def check(found: pd.DataFrame, log: pd.DataFrame, spec: DatasetSpec) -> dict[str, int]:
    rows, counts = by_hand(log, spec)
    expected = pd.DataFrame(rows)[list(found.columns)].sort_values(["user_id", "timestamp"], ignore_index=True)
    assert values(found) == values(expected)
    return counts


def steps_of(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "steps").to_pandas().sort_values(["user_id", "timestamp"], ignore_index=True)


@PROPERTY
@given(
    seed=st.integers(0, 10_000),
    late=st.sampled_from([0.0, 0.4]),
    shards=st.sampled_from([1, 3]),
    most=st.sampled_from([3, 10_000]),
)
@example(seed=0, late=0.4, shards=3, most=3)
def test_steps_and_counts_equal_those_of_a_loop(toy, tmp_path, monkeypatch, seed, late, shards, most):
    spec = toy.spec.replace(max_touchpoints=most)
    log = messy(toy, seed, late)
    path = toy.write(log, tmp_path / "log.parquet")
    monkeypatch.setattr(sequences, "ROWS_PER_SHARD", math.ceil(len(log) / shards))
    with open_engine() as engine:
        made = build(engine, path, spec, tmp_path / "windows")
    found = steps_of(tmp_path / "windows")
    own = [name for name in ("created_timestamp",) if name in log]
    assert list(found.columns) == ["user_id", "timestamp", *own, "step", *spec.log_columns[2:]]
    counts = check(found, log, spec)
    assert {name: getattr(made, name) for name in counts} == counts
    assert (made.rows, made.users) == (len(found), found["user_id"].nunique())
    assert made.session_breaks == made.journeys - made.users
    assert read_back(tmp_path / "windows") == made


@pytest.mark.long
@pytest.mark.parametrize("late", [0.0, 0.3])
def test_spark_gives_the_same_bits(toy, tmp_path, monkeypatch, late):
    spec = toy.spec.replace(max_touchpoints=8)
    log = messy(toy, 5, late, users=60)
    monkeypatch.setattr(sequences, "ROWS_PER_SHARD", math.ceil(len(log) / 3))
    path = toy.write(log, tmp_path / "log.parquet")
    made = {}
    for name in ("duckdb", "spark"):
        with open_engine(name) as engine:
            made[name] = build(engine, path, spec, tmp_path / name)
        read_back(tmp_path / name)
    check(steps_of(tmp_path / "spark"), log, spec)
    duckdb, spark = made["duckdb"], made["spark"]
    assert duckdb.content_sha256 == spark.content_sha256
    assert [(s.file, s.rows, s.users) for s in duckdb.shards] == [(s.file, s.rows, s.users) for s in spark.shards]
    same = {"engine": "", "shards": ()}
    assert replace(duckdb, **same) == replace(spark, **same)


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.4]))
def test_the_future_changes_no_step_of_the_past(toy, tmp_path, seed, late):
    log = messy(toy, seed, late)
    now = log["timestamp"].quantile(0.5, interpolation="lower")
    past = log["timestamp"] <= now
    future = log[~past]
    found = []
    for name, rows in (("whole", log), ("cut", log[past]), ("other", pd.concat([log[past], future.iloc[::2]]))):
        with open_engine() as engine:
            build(engine, toy.write(rows, tmp_path / f"{name}.parquet"), toy.spec, tmp_path / name)
        steps = steps_of(tmp_path / name)
        found.append(values(steps[steps["timestamp"] <= now]))
    assert found[0] == found[1] == found[2] and found[0]


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.4]))
def test_neither_the_order_of_rows_nor_a_second_delivery_matters(toy, tmp_path, seed, late):
    log = messy(toy, seed, late)
    digests = []
    for rows in (log, log.sample(frac=1, random_state=seed), pd.concat([log, log])):
        with open_engine() as engine:
            made = build(engine, toy.write(rows, tmp_path / "log.parquet"), toy.spec, tmp_path / "windows")
        digests.append(made.content_sha256)
    assert len(set(digests)) == 1


def test_a_large_log_has_several_shards(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "ROWS_PER_SHARD", 50)
    log = toy.log(users=60)
    heard = []
    with open_engine() as engine, progress.listen(lambda done, total, note: heard.append((done, total))):
        made = build(engine, toy.write(log, tmp_path / "log.parquet"), toy.spec, tmp_path / "windows")
    shards = math.ceil(len(log) / 50)
    assert [s.file for s in made.shards] == [f"steps/part-{i:05d}.parquet" for i in range(shards)] and shards > 3
    assert made.rows == len(log) and sum(s.users for s in made.shards) == 60
    noted = [done for done, total in heard if total == shards and isinstance(done, int)]  # DuckDB reports floats
    assert noted == list(range(shards + 1))


# ---- the folder


def read_back(folder: Path) -> Manifest:
    WindowTable.load(folder)
    return Manifest.read(folder)


@pytest.fixture
def windows(toy, tmp_path, monkeypatch) -> Path:
    log = messy(toy, 1, 0.0, users=30)
    monkeypatch.setattr(sequences, "ROWS_PER_SHARD", math.ceil(len(log) / 2))
    with open_engine() as engine:
        build(engine, toy.write(log, tmp_path / "log.parquet"), toy.spec, tmp_path / "windows")
    return tmp_path / "windows"


def test_the_folder_contains_steps_manifest_and_description(toy, windows):
    assert {path.relative_to(windows).as_posix() for path in windows.rglob("*") if path.is_file()} == {
        "manifest.json",
        "dataset.yaml",
        "steps/part-00000.parquet",
        "steps/part-00001.parquet",
    }
    assert DatasetSpec.load(str(windows / "dataset.yaml")) == toy.spec
    made = read_back(windows)
    first = pq.read_schema(windows / made.shards[0].file)
    assert made.columns == {field.name: str(field.type) for field in first}
    assert json.loads((windows / "manifest.json").read_text())["schema_version"] == 1


def test_an_invalid_manifest_is_refused(windows):
    path = windows / "manifest.json"
    for content in ("[]", '{"schema_version": 99}', None):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(ManifestError):
            Manifest.read(windows)


def test_a_rewrite_may_add_columns_but_not_change_rows(windows):
    before = Manifest.read(windows)
    rewrite_shards(windows, lambda rows: rows.append_column("twice", pa.compute.multiply(rows["cost"], 2.0)))
    after = read_back(windows)
    assert after.columns == before.columns | {"twice": "double"} and after.rows == before.rows
    assert after.content_sha256 != before.content_sha256 and after.moved_ties == before.moved_ties
    for change in (lambda rows: rows.slice(1), lambda rows: rows.take(pa.array(range(len(rows)))[::-1])):
        with pytest.raises(ValueError, match="their order"):
            rewrite_shards(windows, change)
        assert read_back(windows) == after


def test_equal_rows_have_equal_digests_in_any_file_layout(windows, tmp_path):
    made = Manifest.read(windows)
    path = windows / made.shards[0].file
    table = pq.read_table(path)
    for number, options in enumerate(({"row_group_size": 3}, {"compression": "none"}, {"use_dictionary": False})):
        pq.write_table(table, tmp_path / f"{number}.parquet", **options)
        assert manifest_module.survey(tmp_path / f"{number}.parquet", "").content == (
            manifest_module.survey(path, "").content
        )
    other = table.set_column(6, "cost", pa.array([None, *table["cost"].to_pylist()[1:]], pa.float64()))
    pq.write_table(other, tmp_path / "other.parquet")
    assert manifest_module.survey(tmp_path / "other.parquet", "").content != manifest_module.survey(path, "").content


# ---- errors


def test_an_invalid_log_is_refused(toy, tmp_path):
    log = toy.log()
    nobody, never = (log.assign(**{name: log[name].where(log.index != 3)}) for name in ("user_id", "timestamp"))
    for rows in (log.drop(columns="cost"), log.head(0), nobody, never):
        path = toy.write(rows, tmp_path / "log.parquet")
        with open_engine() as engine, pytest.raises(LogError):
            build(engine, path, toy.spec, tmp_path / "windows")
        assert not (tmp_path / "windows").exists()
