from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.engine import open_engine
from features.feature_repo import sources as feature_sources
from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL, build_sources
from mtorl.window.window import HISTORY, STATIC
from tests.features.feature_run import with_times

HOUR, DAY = pd.Timedelta("1h"), pd.Timedelta("1D")
PROPERTY = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
EVERYTHING = {HISTORY, STATIC, USER_CHANNEL, CAMPAIGN_STATS}


def sources(toy, log: pd.DataFrame, folder: Path, spec=None, engine: str = "duckdb") -> dict[str, pd.DataFrame]:
    path = toy.write(log, folder / "log.parquet")
    with open_engine(engine) as opened:
        build_sources(opened, path, spec or toy.spec, folder / engine)
    return {file.stem: pd.read_parquet(file) for file in sorted((folder / engine).iterdir())}


def known(log: pd.DataFrame) -> pd.Series:
    return log[["timestamp", "created_timestamp"]].max(axis=1) if "created_timestamp" in log else log["timestamp"]


def rows_of(table: pd.DataFrame) -> list[str]:
    return sorted(str([list(v) if hasattr(v, "__len__") else v for v in row]) for row in table.to_numpy().tolist())


# ---- histories


@PROPERTY
@given(
    seed=st.integers(0, 10_000),
    late=st.sampled_from([0.0, 0.4]),
    batch=st.booleans(),
    window=st.sampled_from([1, 4, 50]),
)
def test_a_snapshot_holds_what_had_arrived_by_then(toy, plain, tmp_path, seed, late, batch, window):
    spec = toy.spec.replace(window=window)
    log = toy.log(seed, users=6, late=late)
    if late and batch:  # arrivals by the hour: many rows become known at once
        log["created_timestamp"] = log["created_timestamp"].dt.ceil("h")
    history = sources(toy, log, tmp_path, spec)[HISTORY]
    assert len(history) == len(log)
    newest = history.sort_values(["timestamp", "created_timestamp"])
    for (user, at), rows in newest.groupby(["user_id", "created_timestamp"]):
        expected = toy.past(log, user, at + pd.Timedelta(1, "us"), n=window)
        row = rows.iloc[-1]
        assert {name: plain(row[name]) for name in expected} == expected
        assert row["timestamp"].value // 1000 == expected["hist_timestamp"][-1]


def test_a_row_that_claims_to_arrive_before_it_happened_is_known_when_it_happened(toy, tmp_path):
    log = toy.log()
    on_time = sources(toy, log, tmp_path)
    early = sources(toy, log.assign(created_timestamp=log["timestamp"] - HOUR), tmp_path)
    for name, table in on_time.items():
        pd.testing.assert_frame_equal(table, early[name])


@pytest.mark.integration
def test_no_list_loses_its_order_at_scale(toy, tmp_path):
    """In parallel, DuckDB's list() over sorted rows is not always sorted; here the order is the window's."""
    users, touchpoints = 20_000, 25
    rng = np.random.default_rng(0)
    size = users * touchpoints
    at = pd.Timestamp("2024-05-01", tz="UTC") + pd.to_timedelta(
        np.tile(np.arange(touchpoints) * 1_000_003, users), "us"
    )
    log = pd.DataFrame([toy.touchpoint("u", pd.Timestamp("2024-05-01", tz="UTC"), 0, rng)]).loc[[0] * size]
    log = log.assign(
        user_id=np.repeat([f"u{i:05d}" for i in range(users)], touchpoints), timestamp=at, cost=np.arange(size)
    )
    log["created_timestamp"] = at + pd.to_timedelta(np.where(rng.random(size) < 0.001, 5_000_000, 0), "us")
    path = toy.write(log.sample(frac=1, random_state=0), tmp_path / "log.parquet")
    with open_engine() as engine:
        build_sources(engine, path, toy.spec, tmp_path)
    history = pq.read_table(tmp_path / f"{HISTORY}.parquet", columns=["user_id", "hist_timestamp", "hist_cost"])
    assert len(history) == size
    for name in ("hist_timestamp", "hist_cost"):
        lists = history[name].combine_chunks()
        values, starts = lists.flatten().to_numpy(), lists.offsets.to_numpy()[:-1]
        begins = np.zeros(len(values), dtype=bool)
        begins[starts] = True
        assert (np.diff(values) > 0)[~begins[1:]].all(), name
        # Costs count the rows of the whole log: no touchpoint has strayed to another user.
        if name == "hist_cost":
            owners = np.array([int(u[1:]) for u in history["user_id"].to_pylist()])
            assert (values[starts] // touchpoints == owners).all()


# ---- static features


def test_static_row_is_known_before_the_first_touch_and_keeps_the_first_value(toy, tmp_path):
    log = toy.log().sort_values(["user_id", "timestamp"], ignore_index=True)
    last = log.groupby("user_id").tail(1).index
    changed = log.assign(age=log["age"].where(~log.index.isin(last) | (log["user_id"] == "u0"), "news from the future"))
    several = changed.groupby("user_id")["user_id"].transform("size") > 1
    changed = changed[several | (changed["user_id"] == "u0")]
    static = sources(toy, changed, tmp_path)[STATIC]
    assert list(static["user_id"]) == sorted(changed["user_id"].unique())
    assert set(static["age"]) <= {"old", "young"}
    first = static["user_id"].map(changed.groupby("user_id")["timestamp"].min())
    assert (static["timestamp"] < first).all() and (static["created_timestamp"] < first).all()
    assert static.set_index("user_id").loc["u2":"u2", "tenure"].isna().all()


def test_no_static_columns_no_static_file(toy, tmp_path):
    made = sources(toy, toy.log(), tmp_path, toy.spec.replace(static=(), segment=None))
    assert set(made) == EVERYTHING - {STATIC} and len(made[HISTORY]) == len(toy.log())


# ---- rolling aggregates


def slow_sums(log: pd.DataFrame, end: pd.Timestamp, span: pd.Timedelta) -> pd.DataFrame:
    """Rows known in the full hours of a span that ends at a full hour."""
    at = known(log)
    return log[(at >= end - span) & (at < end)]


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]), stretch=st.sampled_from([1, 30]))
def test_aggregates_count_what_was_known_in_full_hours_of_their_span(toy, tmp_path, seed, late, stretch):
    log = toy.log(seed, users=5, late=late)
    for name in ("timestamp", "created_timestamp"):  # over days: rows leave the span as others come
        if name in log:
            log[name] = log[name].min() + (log[name] - log[name].min()) * stretch
    made = sources(toy, log, tmp_path)
    for name, key, span in ((USER_CHANNEL, "user_id", 7 * DAY), (CAMPAIGN_STATS, "campaign_id", DAY)):
        table = made[name]
        assert (table["timestamp"] == table["timestamp"].dt.floor("h")).all()
        assert (table["created_timestamp"] == table["timestamp"]).all()
        for value, rows in log.groupby(key):
            mine = table[table[key] == value]
            ends = {end + wait for end in known(rows).dt.floor("h") + HOUR for wait in (pd.Timedelta(0), span)}
            assert set(mine["timestamp"]) == ends, "a row where, and only where, the sums change"
            for row in mine.itertuples():
                counted = slow_sums(rows, row.timestamp, span)
                if name == USER_CHANNEL:
                    by_channel = [counted[counted["channel"] == channel] for channel in toy.spec.channels]
                    assert row.uc_touchpoints.tolist() == [len(some) for some in by_channel]
                    assert row.uc_clicks.tolist() == [some["click"].sum() for some in by_channel]
                else:
                    found = [getattr(row, f"campaign_{n}") for n in ("click_rate", "conversion_rate", "cost")]
                    expected = [counted[n].mean() for n in ("click", "conversion", "cost")]
                    assert row.campaign_touchpoints == len(counted)
                    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]))
def test_a_timed_outcome_counts_in_the_hour_in_which_it_became_known(toy, tmp_path, seed, late):
    log = with_times(toy.log(seed, users=5, late=late), ("click", "conversion"), seed)
    made = sources(toy, log, tmp_path, toy.spec.replace(immediate=("cost",), timed=("click", "conversion")))
    at = known(log)
    when = {name: log[f"{name}_time"].where(log[f"{name}_time"] > at, at) for name in ("click", "conversion")}
    when = {name: since.mask(log[f"{name}_time"].isna()) for name, since in when.items()}

    def counted(name: str, of: pd.Series, end: pd.Timestamp, span: pd.Timedelta) -> float:
        return float(log[name][of & (when[name] >= end - span) & (when[name] < end)].sum())

    for row in made[CAMPAIGN_STATS].itertuples():
        of = log["campaign_id"] == row.campaign_id
        shown = slow_sums(log[of], row.timestamp, DAY)
        assert row.campaign_touchpoints == len(shown)
        for name in ("click", "conversion"):
            rate = counted(name, of, row.timestamp, DAY) / len(shown) if len(shown) else math.nan
            np.testing.assert_allclose(getattr(row, f"campaign_{name}_rate"), rate, rtol=1e-9)
    for row in made[USER_CHANNEL].itertuples():
        clicks = [
            counted("click", (log["user_id"] == row.user_id) & (log["channel"] == name), row.timestamp, 7 * DAY)
            for name in toy.spec.channels
        ]
        assert row.uc_clicks.tolist() == clicks


# ---- what holds for all of them


def test_times_in_nanoseconds_mean_the_same(toy, tmp_path):
    """pandas writes them so when it has grown the log."""
    log = toy.log()
    for name in ("us", "ns"):
        (tmp_path / name).mkdir()
        log.astype({"timestamp": f"datetime64[{name}, UTC]"}).to_parquet(tmp_path / name / "log.parquet")
        with open_engine() as engine:
            build_sources(engine, tmp_path / name / "log.parquet", toy.spec, tmp_path / name)
    one, other = (pd.read_parquet(tmp_path / name / "user_history.parquet") for name in ("us", "ns"))
    pd.testing.assert_frame_equal(one, other)


def test_the_machines_time_zone_does_not_matter(toy, tmp_path):
    here = sources(toy, toy.log(), tmp_path)
    toy.spec.save(tmp_path / "spec.yaml")
    code = (
        "from features.engine import open_engine; from features.feature_repo.sources import build_sources; "
        "from mtorl.log.dataset import DatasetSpec\n"
        "with open_engine() as engine: build_sources(engine, 'log.parquet', DatasetSpec.load('spec.yaml'), 'there')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "TZ": "Asia/Tokyo"}, check=True)
    for name, table in here.items():
        pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "there" / f"{name}.parquet"))


@pytest.mark.long
@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]))
def test_neither_the_order_of_rows_nor_shards_matter(toy, tmp_path, seed, late):
    log = toy.log(seed, users=6, late=late)
    whole = sources(toy, log, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sources, "ROWS_PER_SHARD", 10)
        parts = sources(toy, log.sample(frac=1, random_state=seed), tmp_path)
    assert set(whole) == set(parts) == EVERYTHING
    for name in EVERYTHING:
        assert rows_of(whole[name]) == rows_of(parts[name])


def test_a_large_log_has_a_folder_of_parts_each_sorted(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_sources, "ROWS_PER_SHARD", 10)
    log = toy.log()
    sources(toy, log, tmp_path)
    parts = sorted((tmp_path / "duckdb" / f"{HISTORY}.parquet").iterdir())
    tables = [pd.read_parquet(part)[["user_id", "timestamp"]] for part in parts]
    assert len(parts) > 1 and sum(map(len, tables)) == len(log)
    users = [user for table in tables for user in table["user_id"].unique()]
    assert len(users) == len(set(users)), "a user lies in two parts"
    for table in tables:
        pd.testing.assert_frame_equal(table, table.sort_values(["user_id", "timestamp"]))


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]))
def test_the_future_changes_no_row_of_the_past(toy, tmp_path, seed, late):
    log = toy.log(seed, users=6, late=late)
    at = known(log)
    now = at.sort_values().iloc[len(log) // 2]
    before = sources(toy, log, tmp_path)
    changed = log.assign(
        channel=log["channel"].where(at <= now, "video"),
        cost=log["cost"].where(at <= now, log["cost"] + 100),
        click=log["click"].where(at <= now, 1 - log["click"]),
    )
    after = sources(toy, changed, tmp_path)
    for name in EVERYTHING:
        one, other = (rows_of(made[name][made[name]["created_timestamp"] <= now]) for made in (before, after))
        assert one == other and (one or name in (USER_CHANNEL, CAMPAIGN_STATS))


@pytest.mark.long
def test_spark_gives_the_same_rows(toy, tmp_path):
    log = with_times(toy.log(seed=3, users=30, late=0.3), ("conversion",), 3)
    spec = toy.spec.replace(timed=("conversion",))
    here, there = (sources(toy, log, tmp_path, spec, engine) for engine in ("duckdb", "spark"))
    assert set(here) == set(there) == EVERYTHING
    for name in EVERYTHING:
        assert rows_of(here[name]) == rows_of(there[name])
