from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.sources import build_sources, history_types

END = pd.Timestamp("2100-01-01", tz="UTC")
PROPERTY = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def sources(toy, log: pd.DataFrame, folder: Path, spec=None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    build_sources(toy.write(log, folder / "log.parquet"), spec or toy.spec, folder / "data")
    static = folder / "data" / "user_static.parquet"
    return pd.read_parquet(folder / "data" / "user_history.parquet"), pd.read_parquet(
        static
    ) if static.exists() else None


def snapshots(history: pd.DataFrame) -> set[str]:
    return {str([list(v) if hasattr(v, "__len__") else v for v in row]) for row in history.to_numpy().tolist()}


def test_each_row_holds_the_last_n_touches_including_its_own(toy, plain, tmp_path):
    log = toy.log()
    history, _ = sources(toy, log, tmp_path)
    assert len(history) == len(log)
    assert history[["user_id", "event_timestamp"]].equals(
        history[["user_id", "event_timestamp"]].sort_values(["user_id", "event_timestamp"])
    )
    for row in history.itertuples():
        expected = toy.past(log, row.user_id, row.event_timestamp + pd.Timedelta(1, "us"))
        for name, values in expected.items():
            assert plain(getattr(row, name)) == values, name
        assert row.hist_timestamp[-1] == row.event_timestamp.value // 1000
        assert row.created_timestamp == row.event_timestamp


def test_lists_have_the_declared_types(toy, tmp_path):
    import pyarrow.parquet as pq

    sources(toy, toy.log(), tmp_path)
    schema = pq.read_schema(tmp_path / "data" / "user_history.parquet")
    arrow = {"VARCHAR": "string", "BIGINT": "int64", "DOUBLE": "double"}
    assert {n: str(schema.field(n).type.value_type) for n in history_types(toy.spec)} == {
        n: arrow[kind] for n, kind in history_types(toy.spec).items()
    }
    assert str(schema.field("event_timestamp").type) == "timestamp[us, tz=UTC]"


def test_a_missing_number_in_a_list_is_nan_because_feast_would_serve_a_null_as_zero(toy, tmp_path):
    log = toy.log().assign(hour=None)
    history, _ = sources(toy, log, tmp_path)
    assert all(value != value for values in history["hist_hour"] for value in values)


def test_static_row_is_known_before_the_first_touch_and_keeps_the_first_value(toy, tmp_path):
    log = toy.log().sort_values(["user_id", "timestamp"], ignore_index=True)
    last = log.groupby("user_id").tail(1).index
    changed = log.assign(age=log["age"].where(~log.index.isin(last) | (log["user_id"] == "u0"), "news from the future"))
    several = changed.groupby("user_id")["user_id"].transform("size") > 1
    changed = changed[several | (changed["user_id"] == "u0")]
    _, static = sources(toy, changed, tmp_path)
    assert static is not None
    assert list(static["user_id"]) == sorted(changed["user_id"].unique())
    assert set(static["age"]) <= {"old", "young"}
    first = static["user_id"].map(changed.groupby("user_id")["timestamp"].min())
    assert (static["event_timestamp"] < first).all() and (static["created_timestamp"] < first).all()
    assert static.set_index("user_id").loc["u2":"u2", "tenure"].isna().all()


def test_no_static_columns_no_static_file(toy, tmp_path):
    spec = replace(toy.spec, static=(), segment=None)
    history, static = sources(toy, toy.log(), tmp_path, spec)
    assert static is None and len(history) == len(toy.log())


def test_times_in_nanoseconds_mean_the_same(toy, tmp_path):
    """pandas writes them so when it has grown the log."""
    log = toy.log()
    for name in ("us", "ns"):
        (tmp_path / name).mkdir()
        log.astype({"timestamp": f"datetime64[{name}, UTC]"}).to_parquet(tmp_path / name / "log.parquet")
        build_sources(tmp_path / name / "log.parquet", toy.spec, tmp_path / name)
    one, other = (pd.read_parquet(tmp_path / name / "user_history.parquet") for name in ("us", "ns"))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_the_machines_time_zone_does_not_matter(toy, tmp_path, zone):
    log = toy.log()
    here, _ = sources(toy, log, tmp_path)
    toy.spec.save(tmp_path / "spec.yaml")
    code = (
        "from features.sources import build_sources; from mtorl.dataset import DatasetSpec; "
        "build_sources('log.parquet', DatasetSpec.load('spec.yaml'), 'there')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "TZ": zone}, check=True)
    pd.testing.assert_frame_equal(here, pd.read_parquet(tmp_path / "there" / "user_history.parquet"))


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]))
def test_the_order_of_rows_in_the_file_does_not_matter(toy, tmp_path, seed, late):
    log = toy.log(seed, users=6, late=late)
    history, _ = sources(toy, log, tmp_path)
    again, _ = sources(toy, log.sample(frac=1, random_state=seed), tmp_path)
    pd.testing.assert_frame_equal(history, again)


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]))
def test_the_future_changes_no_snapshot_of_the_past(toy, tmp_path, seed, late):
    log = toy.log(seed, users=6, late=late)
    known = log["created_timestamp"] if late else log["timestamp"]
    now = known.sort_values().iloc[len(log) // 2]
    before, _ = sources(toy, log, tmp_path)
    changed = log.assign(
        channel=log["channel"].where(known <= now, "video"), cost=log["cost"].where(known <= now, log["cost"] + 100)
    )
    after, _ = sources(toy, changed, tmp_path)
    assert snapshots(before[before["created_timestamp"] <= now]) == snapshots(after[after["created_timestamp"] <= now])


@PROPERTY
@given(seed=st.integers(0, 10_000), batch=st.booleans())
def test_a_snapshot_holds_what_had_arrived_by_then(toy, plain, tmp_path, seed, batch):
    log = toy.log(seed, users=6, late=0.4)
    if batch:  # arrivals by the hour: many rows become known at once
        log["created_timestamp"] = log["created_timestamp"].dt.ceil("h")
    history, _ = sources(toy, log, tmp_path)
    assert len(history) == len(log)
    newest = history.sort_values(["event_timestamp", "created_timestamp"])
    for (user, known), rows in newest.groupby(["user_id", "created_timestamp"]):
        expected = toy.past(log, user, known + pd.Timedelta(1, "us"))
        row = rows.iloc[-1]
        assert {name: plain(row[name]) for name in expected} == expected
        assert row["event_timestamp"].value // 1000 == expected["hist_timestamp"][-1]


def test_a_row_that_claims_to_arrive_before_it_happened_is_known_when_it_happened(toy, tmp_path):
    log = toy.log()
    plain_history, _ = sources(toy, log, tmp_path)
    early = log.assign(created_timestamp=log["timestamp"] - pd.Timedelta("1h"))
    history, _ = sources(toy, early, tmp_path)
    pd.testing.assert_frame_equal(plain_history, history)
