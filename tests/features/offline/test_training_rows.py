"""Tests that training rows are joined only with facts known strictly before them."""

import json

import numpy as np
import pandas as pd
from feast import FeatureStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.offline import store
from mtorl.window.window import WindowBatch
from tests.features.feature_run import (
    COUNTED,
    US,
    expected_features,
    known_since,
    nearly_equal,
    random_journeys,
    with_one_more_touchpoint,
)
from tests.properties import examples

PROPERTY = settings(
    max_examples=examples(3, 6), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.4]), batch=st.booleans())
def test_each_row_is_joined_with_its_strict_past(toy, make, seed, late, batch):
    log = random_journeys(toy, seed, late, batch)
    rows = make(log).build()
    static = [c.name for c in toy.spec.static]
    for row in rows.to_dict("records"):
        expected = expected_features(toy.spec, log, row["user_id"], row["campaign_id"], row["timestamp"])
        assert set(expected) == {*static, *COUNTED}
        assert {n: (row[n], expected[n]) for n in expected if not nearly_equal(row[n], expected[n])} == {}


def test_training_rows_contain_the_log_and_the_features_of_a_decision(toy, finished_run):
    steps = finished_run.steps()
    expected = finished_run.log.sort_values(["user_id", "timestamp"], ignore_index=True)
    pd.testing.assert_frame_equal(
        steps[list(toy.spec.log_columns)], expected[list(toy.spec.log_columns)], check_dtype=False
    )
    # a feature with a list has one column per channel
    inputs = {column.name for column in finished_run.spec.feature_columns}
    assert set(steps) == {*toy.spec.log_columns, "step", *COUNTED, *inputs}


def test_an_outcome_that_is_known_afterwards_is_no_feature(toy, finished_run):
    opened = FeatureStore(repo_path=str(finished_run.root))
    fields = [field for view in opened.list_feature_views() for field in (*view.schema, *view.features)]
    names = {name for field in fields for name in (field.name, *json.loads(field.tags.get("columns", "{}")))}
    assert {"hist_click", "hist_hour", "age"} <= names
    assert not [name for name in names for outcome in toy.spec.outcomes if outcome.name in name]
    (found,) = finished_run.read(["u1"], finished_run.log["timestamp"].max() + US).values()
    assert not [name for name in {**found.history, **found.static, **found.aggregates} if "seconds" in name]


@PROPERTY
@given(seed=st.integers(0, 10_000), late=st.sampled_from([0.0, 0.4]))
def test_the_future_changes_no_row_of_the_past(toy, make, seed, late):
    log = random_journeys(toy, seed, late)
    since = known_since(log)
    now = since.sort_values().iloc[len(log) // 2]
    future, ahead = since > now, log["timestamp"] > now
    changed = log.assign(
        channel=log["channel"].mask(future, "video"),
        campaign_id=log["campaign_id"].mask(future, "c1"),
        cost=log["cost"].mask(future, log["cost"] + 100),
        hour=log["hour"].mask(future, 77.0),
        seconds=log["seconds"].mask(future, 77.0),
        **{name: log[name].mask(future, 1 - log[name]) for name in ("click", "conversion")},
        age=log["age"].mask(ahead, "news"),
    )
    changed = with_one_more_touchpoint(toy, changed[~future | (np.arange(len(log)) % 2 == 0)], ["u1", "newcomer"])
    made, other = make(log), make(changed)
    before, after = (run.build()[lambda rows: known_since(rows) <= now] for run in (made, other))
    places = before.index.to_numpy(), after.index.to_numpy()
    # `step` counts late touchpoints, but only selects windows and is no input of the model.
    before, after = (rows.drop(columns="step").reset_index(drop=True) for rows in (before, after))
    assert len(before) >= len(log) // 2
    pd.testing.assert_frame_equal(before, after, check_exact=False, rtol=1e-9)
    windows = [
        WindowBatch.from_steps(run.table().steps, at, toy.spec) for run, at in zip((made, other), places, strict=True)
    ]
    assert windows[0].length_B.tolist() == windows[1].length_B.tolist()
    for name, values in windows[0].prev_outcomes.items():
        assert values.tobytes() == windows[1].prev_outcomes[name].tobytes()
    np.testing.assert_array_equal(windows[0].context["hour"], windows[1].context["hour"])


def test_joining_again_changes_nothing(finished_run):
    before = finished_run.steps()
    store.training_windows(finished_run.root, finished_run.folder / "windows", finished_run.spec)
    pd.testing.assert_frame_equal(before, finished_run.steps())
