"""Tests that training and serving read identical features."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.offline import store
from mtorl.log.columns import Codes, Values
from mtorl.window.window import STATIC, WindowBatch, history_types, instance_from_history
from serving.router.flow.features import UserFeatures
from tests.features.feature_run import (
    DAY,
    US,
    FeatureRun,
    known_since,
    micros,
    none_if_missing,
    random_journeys,
    with_times,
)
from tests.features.online_stores import STORES

PROPERTY = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
START = pd.Timestamp("2024-05-01 06:00:00.250001", tz="UTC")

Known = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # history, static and stored features


def own_file(log: pd.DataFrame, seed: int, path: Path) -> Path:
    """Write a team's campaign features, some at exactly a touchpoint's time and some late."""
    rng = np.random.default_rng(seed)
    moments = log.sample(12, replace=True, random_state=seed)["timestamp"].reset_index(drop=True)
    rows = pd.DataFrame(
        {
            "campaign_id": rng.choice(["c1", "c2"], 12),
            "at": moments + pd.to_timedelta(rng.choice([-3_600_000_000, -1, 0, 1], 12), unit="us"),
            "sky": rng.choice(["clear", "rain", None], 12),
            "degrees": np.where(rng.random(12) < 0.2, np.nan, rng.normal(size=12)),
            "by_hour": [list(rng.normal(size=3)) if rng.random() < 0.8 else None for _ in range(12)],
        }
    )
    rows = rows.drop_duplicates(["campaign_id", "at"])
    rows["written"] = rows["at"] + pd.to_timedelta(rng.choice([0, 1, 3_600_000_000], len(rows)), unit="us")
    rows.to_parquet(path, index=False)
    return path


def chosen_features(own: Path) -> list[dict[str, Any]]:
    """Return feature fields that together use every rule for missing values."""
    return [
        {"view": "user_channel", "fields": [{"name": "uc_clicks", "kind": "numeric", "by_channel": True}]},
        {
            "view": "campaign_stats",
            "fields": [
                {"name": "campaign_touchpoints", "kind": "numeric", "missing": "zero"},
                {"name": "campaign_click_rate", "kind": "numeric"},
            ],
        },
        {
            "view": "weather",
            "source": str(own),
            "key": "campaign_id",
            "timestamp": "at",
            "created_timestamp": "written",
            # With whole days it would be unclear which rows have expired, because SQLite stores whole seconds.
            "ttl_hours": 24.5,
            "fields": [
                {"name": "sky", "kind": "categorical"},
                {"name": "degrees", "kind": "numeric", "missing": "zero"},
                {"name": "by_hour", "kind": "numeric", "by_channel": True, "missing": "zero"},
            ],
        },
    ]


def from_the_log(run: FeatureRun, rows: Sequence[int]) -> WindowBatch:
    return WindowBatch.from_steps(run.table().steps, np.array(rows), run.spec)


def from_feast(run: FeatureRun, rows: Sequence[int]) -> list[Known]:
    """Read the features at each row's time with Feast's point-in-time join.

    The histories are computed from the log, because Feast stores them only online.
    """
    entities = run.steps().loc[list(rows), ["user_id", "campaign_id", "timestamp"]]
    features = [f"{STATIC}:{column.name}" for column in run.spec.static]
    features += [f"{view.view}:{field.name}" for view in run.spec.features for field in view.fields]
    job = FeatureStore(repo_path=str(run.root)).get_historical_features(
        entity_df=entities.rename(columns={"timestamp": "event_timestamp"}),
        features=features,
        filter_by_created_timestamp=True,
    )
    pasts = [past(run, user, at) for user, at in entities[["user_id", "timestamp"]].itertuples(index=False)]
    return [(history, values, values) for history, values in zip(pasts, job.to_df().to_dict("records"), strict=True)]


def past(run: FeatureRun, user: str, at: pd.Timestamp) -> dict[str, Any]:
    known = run.log[(run.log["user_id"] == user) & (known_since(run.log) < at)]
    last = known.sort_values("timestamp").tail(run.spec.window)
    names = [name.removeprefix("hist_") for name in history_types(run.spec)]
    times = {"timestamp", *run.spec.outcome_times.values()}
    return {
        f"hist_{name}": [
            None if pd.isna(value) else float(value.value // 1000) if name in times else value for value in last[name]
        ]
        for name in names
    }


def from_the_router(run: FeatureRun, rows: Sequence[int]) -> list[UserFeatures]:
    """Read the features as the router does, from a store filled up to just before each row."""
    found = []
    for user, at, campaign in run.steps().loc[rows, ["user_id", "timestamp", "campaign_id"]].itertuples(index=False):
        store.materialize(run.root, run.spec, run.path, (at - US).to_pydatetime())
        found += run.read([user], at, campaign or "none").values()
    return found


def read_features(found: UserFeatures) -> Known:
    return found.history, found.static, found.aggregates


def is_list(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def served(run: FeatureRun, rows: Sequence[int], known: Sequence[Known]) -> WindowBatch:
    instances = [
        instance_from_history(history, step, static, run.spec, micros(pd.Timestamp(step["timestamp"])), stored)
        for step, (history, static, stored) in zip(run.table().steps.take(rows).to_pylist(), known, strict=True)
    ]
    return WindowBatch.from_instances(json.loads(json.dumps(instances)), run.spec)


def differences(one: WindowBatch, other: WindowBatch) -> list[str]:
    """Return the differences of two batches of windows, bit by bit, with categories as text."""

    def plain(values: Values) -> bytes | list[str | None]:
        if isinstance(values, Codes):
            return [values.values[code] if code >= 0 else None for code in values.codes]
        return values.tobytes()

    def parts(batch: WindowBatch) -> dict[str, Any]:
        columns = {**batch.prev_outcomes, **batch.context, **batch.static, **batch.features}
        columns["prev_channel"] = batch.prev_channel_N
        return {"length": batch.length_B.tolist(), **{name: plain(values) for name, values in columns.items()}}

    found, expected = parts(one), parts(other)
    assert found.keys() == expected.keys()
    return [f"{name}: {found[name]!r} != {expected[name]!r}" for name in found if found[name] != expected[name]]


# ---- equal features


@PROPERTY
@given(
    seed=st.integers(0, 10_000),
    late=st.sampled_from([0.0, 0.4]),
    batch=st.booleans(),
    timed=st.sampled_from([(), ("conversion", "revenue")]),
)
@pytest.mark.parametrize("kind", STORES)
def test_training_and_serving_see_the_same(toy, make, tmp_path, kind, seed, late, batch, timed):
    log = with_times(random_journeys(toy, seed, late, batch), timed, seed)
    features = chosen_features(own_file(log, seed, tmp_path / "weather.parquet"))
    run = make(log, kind, features=features, timed=timed)
    every = list(run.build().sort_values("timestamp").index)
    assert differences(from_the_log(run, every), served(run, every, from_feast(run, every))) == []

    places = sorted(np.random.default_rng(seed).choice(len(every), 5, replace=False))
    # Each row adds data to the online store, so the rows must be in order of time.
    some = [every[place] for place in places]
    online = from_the_router(run, some)
    windows = served(run, some, [read_features(found) for found in online])
    assert differences(from_the_log(run, some), windows) == []
    for row, found in zip(run.steps().loc[some].to_dict("records"), online, strict=True):
        chosen = [field.name for view in run.spec.features for field in view.fields]
        joined = {name: row[name].tolist() if is_list(row[name]) else none_if_missing(row[name]) for name in chosen}
        assert joined == found.aggregates


# ---- to the microsecond


@pytest.mark.parametrize("kind", STORES)
def test_a_pause_ends_a_journey_at_the_same_microsecond_everywhere(toy, make, kind):
    rng, gap = np.random.default_rng(0), 2 * DAY
    pauses = {"u1": gap - US, "u3": gap, "u4": gap + US}
    log = [toy.touchpoint(user, START + i * pause, i, rng) for user, pause in pauses.items() for i in (0, 1)]
    run = make(pd.DataFrame(log), kind, journey_gap_days=2)
    run.build()
    rows = [1, 3, 5]
    assert from_the_log(run, rows).length_B.tolist() == [2, 2, 1]
    assert differences(from_the_log(run, rows), served(run, rows, from_feast(run, rows))) == []
    online = from_the_router(run, rows)
    assert differences(from_the_log(run, rows), served(run, rows, [read_features(found) for found in online])) == []
    assert [found.has_history for found in online] == [True, True, False]


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize(("delay", "length"), [(-US, 2), (0 * US, 1), (US, 1)])
def test_a_touch_is_known_at_the_same_microsecond_everywhere(toy, make, kind, delay, length):
    rng = np.random.default_rng(0)
    log = pd.DataFrame([toy.touchpoint("u1", START + i * DAY, i, rng) for i in (0, 1)])
    run = make(log.assign(created_timestamp=START + DAY + delay * np.array([1, 0])), kind)
    run.build()
    windows = [from_the_log(run, [1]), served(run, [1], from_feast(run, [1]))]
    windows += [served(run, [1], [read_features(found) for found in from_the_router(run, [1])])]
    assert [batch.length_B.tolist() for batch in windows] == [[length]] * 3
