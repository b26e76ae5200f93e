import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.engine import open_engine
from features.feature_repo import sources as feature_sources
from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL, build_sources, newest_touchpoints
from features.sequences.builder import clean_touchpoints
from mtorl.window.window import STATIC
from tests.features.feature_run import with_times

HOUR, DAY = pd.Timedelta("1h"), pd.Timedelta("1D")
PROPERTY = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
EVERYTHING = {STATIC, USER_CHANNEL, CAMPAIGN_STATS}


def sources(toy, log: pd.DataFrame, folder: Path, spec=None, engine: str = "duckdb") -> dict[str, pd.DataFrame]:
    path = toy.write(log, folder / "log.parquet")
    with open_engine(engine) as opened:
        build_sources(opened, clean_touchpoints(opened.read(path), spec or toy.spec), spec or toy.spec, folder / engine)
    return {file.stem: pd.read_parquet(file) for file in sorted((folder / engine).iterdir())}


def known(log: pd.DataFrame) -> pd.Series:
    return log[["timestamp", "created_timestamp"]].max(axis=1) if "created_timestamp" in log else log["timestamp"]


def rows_of(table: pd.DataFrame) -> list[str]:
    return sorted(str([list(v) if hasattr(v, "__len__") else v for v in row]) for row in table.to_numpy().tolist())


# ---- histories


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.4]), window=st.sampled_from([1, 4, 50]))
def test_the_newest_touchpoints_of_a_user_are_together_in_order_of_time(toy, tmp_path, seed, late, window):
    spec = toy.spec.replace(window=window)
    log = toy.log(seed, users=6, late=late)
    path = toy.write(log.sample(frac=1, random_state=seed), tmp_path / "log.parquet")
    with open_engine() as engine:
        found = newest_touchpoints(clean_touchpoints(engine.read(path), spec), spec).to_pandas()
    assert list(found["user_id"].drop_duplicates()) == sorted(log["user_id"].unique())
    for user, rows in found.groupby("user_id"):
        last = log[log["user_id"] == user].sort_values("timestamp").tail(window)
        assert rows["hist_timestamp"].tolist() == [time.value // 1000 for time in last["timestamp"]]
        assert rows["hist_cost"].tolist() == last["cost"].tolist()


def test_a_row_that_arrives_before_its_time_is_known_at_its_time(toy, tmp_path):
    log = toy.log()
    on_time = sources(toy, log, tmp_path)
    early = sources(toy, log.assign(created_timestamp=log["timestamp"] - HOUR), tmp_path)
    for name, table in on_time.items():
        pd.testing.assert_frame_equal(table, early[name])


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
    assert set(made) == EVERYTHING - {STATIC}


# ---- rolling aggregates


def slow_sums(log: pd.DataFrame, end: pd.Timestamp, span: pd.Timedelta) -> pd.DataFrame:
    """Return the rows that became known in the period `span` before `end`."""
    at = known(log)
    return log[(at >= end - span) & (at < end)]


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.3]), stretch=st.sampled_from([1, 30]))
def test_aggregates_count_what_was_known_in_full_hours_of_their_span(toy, tmp_path, seed, late, stretch):
    log = toy.log(seed, users=5, late=late)
    # Stretch the log, so that some rows become older than the span.
    for name in ("timestamp", "created_timestamp"):
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
            assert set(mine["timestamp"]) == ends, "a row exists only at a change of the sums"
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


# ---- all sources


def test_times_in_nanoseconds_give_the_same_sources(toy, tmp_path):
    """pandas may switch to nanoseconds, for example after rows were added."""
    log = toy.log()
    for name in ("us", "ns"):
        (tmp_path / name).mkdir()
        log.astype({"timestamp": f"datetime64[{name}, UTC]"}).to_parquet(tmp_path / name / "log.parquet")
        with open_engine() as engine:
            touchpoints = clean_touchpoints(engine.read(tmp_path / name / "log.parquet"), toy.spec)
            build_sources(engine, touchpoints, toy.spec, tmp_path / name)
    one, other = (pd.read_parquet(tmp_path / name / f"{USER_CHANNEL}.parquet") for name in ("us", "ns"))
    pd.testing.assert_frame_equal(one, other)


def test_the_local_time_zone_does_not_matter(toy, tmp_path, monkeypatch):
    here = sources(toy, toy.log(), tmp_path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        there = sources(toy, toy.log(), tmp_path)
    time.tzset()
    for name, table in here.items():
        pd.testing.assert_frame_equal(table, there[name])


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
    parts = sorted((tmp_path / "duckdb" / f"{USER_CHANNEL}.parquet").iterdir())
    tables = [pd.read_parquet(part)[["user_id", "timestamp"]] for part in parts]
    assert len(parts) > 1
    users = [user for table in tables for user in table["user_id"].unique()]
    assert len(users) == len(set(users)), "a user is in two parts"
    for table in tables:
        pd.testing.assert_frame_equal(table, table.sort_values(["user_id", "timestamp"]))


@pytest.mark.long
def test_spark_computes_the_same_rows(toy, tmp_path):
    log = with_times(toy.log(seed=3, users=30, late=0.3), ("conversion",), 3)
    spec = toy.spec.replace(timed=("conversion",))
    here, there = (sources(toy, log, tmp_path, spec, engine) for engine in ("duckdb", "spark"))
    assert set(here) == set(there) == EVERYTHING
    for name in EVERYTHING:
        assert rows_of(here[name]) == rows_of(there[name])
