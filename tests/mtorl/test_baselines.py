"""Baselines that read windows: what they see of them, and that they learn what there is to learn."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtorl.baselines import labels, lightgbm, markov
from mtorl.baselines.summary import HALF_LIVES, LATEST, Summary
from mtorl.dataset import DatasetSpec
from mtorl.evaluation import evaluate
from mtorl.windows import Encoder, WindowBatch, WindowError

SPEC = DatasetSpec.from_dict(
    {
        "name": "tiny",
        "description": "two channels",
        "adapter": "touchpoints",
        "channels": ["search", "social"],
        "context": [
            {"name": "hour", "kind": "numeric"},
            {"name": "device", "kind": "categorical", "missing": "unknown"},
        ],
        "static": [{"name": "age", "kind": "numeric", "missing": "unknown"}],
        "segment": None,
        "reward": {"gain": "click"},
        "propensity": "channel-frequency",
        "currency": "EUR",
        "window": 4,
    }
)
BASELINES = [markov, lightgbm]


def steps(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of user, channel, click, cost ..., in the order of time."""
    base = {"click": 0, "conversion": 0, "revenue": 0.0, "cost": 1.0, "hour": 8.0, "device": "tv", "age": None}
    filled = [{**base, **row, "timestamp": 1_700_000_000_000_000 + i * 60_000_000} for i, row in enumerate(rows)]
    filled.sort(key=lambda row: row["user_id"])
    table = pa.Table.from_pylist(filled)
    times = table["timestamp"].cast(pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("timestamp"), "timestamp", times)
    return table.set_column(table.column_names.index("age"), "age", table["age"].cast(pa.float64()))


def windows(rows: list[dict[str, Any]], spec: DatasetSpec = SPEC) -> WindowBatch:
    return WindowBatch.from_steps(steps(rows), None, spec, targets=True)


def journey(user: str, touches: str, **more: Any) -> list[dict[str, Any]]:
    """A letter a touchpoint: s search, o social; in capitals, with a click."""
    names = {"s": "search", "o": "social"}
    return [
        {"user_id": user, "channel": names[letter.lower()], "click": int(letter.isupper()), "cost": i + 1.0, **more}
        for i, letter in enumerate(touches)
    ]


def log(users: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Sticky channels; a click mostly comes on search if the touchpoint before was one on search; social costs 5."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        before = "social"
        for _ in range(6):
            channel = before if random.random() < 0.8 else str(random.choice(SPEC.channels))
            likes = 0.9 if channel == before == "search" else 0.1
            cost = 5.0 if channel == "social" else 1.0
            rows.append(
                {"user_id": f"u{user}", "channel": channel, "click": int(random.random() < likes), "cost": cost}
            )
            before = channel
    return rows


# ---- the summary


def test_a_summary_counts_what_a_window_holds():
    batch = windows(journey("u", "SosO", hour=9.0, age=30.0))
    encoder = Encoder.fit(batch, SPEC)
    found = Summary.of(batch, encoder)
    of = dict(zip(found.names, found.values_BF.T, strict=True))
    np.testing.assert_array_equal(of["touchpoints"], [0, 1, 2, 3])
    np.testing.assert_array_equal(of["channel_1"], [np.nan, 0, 1, 0])
    np.testing.assert_array_equal(of["channel_2"], [np.nan, np.nan, 0, 1])
    np.testing.assert_array_equal(of[f"channel_{LATEST}"], [np.nan] * 4)
    np.testing.assert_array_equal(of["uses_search"], [0, 1, 1, 2])
    np.testing.assert_allclose(of["click_mean"], [np.nan, 1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(of["cost_2"], [np.nan, np.nan, 1, 2])
    np.testing.assert_allclose(of["click_of_search"], [np.nan, 1, 1, 1 / 2])
    np.testing.assert_allclose(of["click_of_social"], [np.nan, np.nan, 0, 0])
    assert HALF_LIVES[0] == 1.0
    np.testing.assert_allclose(of["cost_fading_1"][3], (3 + 2 / 2 + 1 / 4) / (1 + 1 / 2 + 1 / 4))
    np.testing.assert_array_equal(of["hour"], [9.0] * 4)
    np.testing.assert_array_equal(of["age"], [30.0] * 4)
    np.testing.assert_array_equal(of["device"], [0.0] * 4)
    assert {"device", "channel_1"} <= set(found.categorical) <= set(found.names)


def test_a_window_that_begins_midway_has_no_start():
    batch = windows(journey("u", "soosos"))
    found = Summary.of(batch, Encoder.fit(batch, SPEC))
    assert found.values_BF[:, found.names.index("touchpoints")].tolist() == [0, 1, 2, 3, 4, 4]


def test_neither_the_present_outcome_nor_a_late_one_is_seen():
    seen = [*journey("a", "SosO"), *journey("b", "so")]
    other = [{**row, "conversion": 1, "revenue": 9.0} for row in seen]
    other[3] = {**other[3], "channel": "search", "click": 0, "cost": 77.0}  # the last touchpoint of a
    batch = windows(seen)
    encoder = Encoder.fit(batch, SPEC)
    one, two = (Summary.of(windows(rows), encoder).values_BF for rows in (seen, other))
    np.testing.assert_array_equal(one, two)
    late = Encoder.fit(batch, replace(SPEC, immediate=("cost",)))
    assert not [name for name in Summary.of(batch, late).names if name.startswith("click")]


# ---- the baselines


def test_markov_counts_what_follows_what():
    train = windows([*journey("a", "sss"), *journey("b", "oso")])
    encoder = Encoder.fit(train, SPEC)
    found = markov.fit(train, train, encoder, seed=0)
    # after search: search twice, social once; after social: search once; at the start: one of each; and one more each
    expected = np.array([[3, 2], [2, 1], [2, 2]], dtype=float)
    np.testing.assert_allclose(np.exp(found.logits_SC), expected / expected.sum(axis=1, keepdims=True))
    logits_BC, reward_BC, cost_BC = found.predict(train)
    assert np.exp(logits_BC[1]) == pytest.approx([0.6, 0.4])
    assert reward_BC[0] == pytest.approx([found.mean_reward] * 2)
    assert cost_BC[2] == pytest.approx([(1 + 2 + 2 * found.mean_cost) / 4] * 2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_learns_the_sticky_channel_and_answers_for_all_channels(baseline: ModuleType):
    train, val, test = (windows(log(seed=seed)) for seed in (1, 2, 3))
    encoder = Encoder.fit(train, SPEC)
    fitted = baseline.fit(train, val, encoder, seed=0)
    logits_BC, reward_BC, cost_BC = fitted.predict(test)
    for head_BC in (logits_BC, reward_BC, cost_BC):
        assert head_BC.shape == (len(test), 2) and np.isfinite(head_BC).all()
    assert ((reward_BC >= 0) & (reward_BC <= 1)).all() and (cost_BC >= 0).all()
    happened = labels(test, encoder)
    found = evaluate(logits_BC, reward_BC, happened.channel_B, happened.reward_B, np.arange(len(test)), 0, resamples=2)
    assert found["action_auc"] > 0.8 and found["reward_auc"] > (0.55 if baseline is markov else 0.8)
    again = baseline.fit(train, val, encoder, seed=0).predict(test)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(fitted.predict(test), again, strict=True))


def test_trees_know_what_each_channel_costs_and_earns():
    train, val = (windows(log(seed=seed)) for seed in (1, 2))
    encoder = Encoder.fit(train, SPEC)
    test = windows(journey("u", "ss"))
    _, reward_BC, cost_BC = lightgbm.fit(train, val, encoder, seed=0).predict(test)
    assert cost_BC == pytest.approx(np.array([[1.0, 5.0]] * 2), rel=0.1)
    assert reward_BC[1, 0] > 0.7 and reward_BC[1, 1] < 0.3, "after search, search is liked, and social is not"


def test_one_price_for_everything_needs_no_model():
    train, val = (windows([{**row, "cost": 2.0} for row in log(seed=seed)]) for seed in (1, 2))
    fitted = lightgbm.fit(train, val, Encoder.fit(train, SPEC), seed=0)
    assert fitted.cost is None and (fitted.predict(val)[2] == 2.0).all()


def test_labels_are_of_the_windows_own_touchpoints():
    batch = windows(journey("u", "sOs"))
    encoder = Encoder.fit(batch, SPEC)
    found = labels(batch, encoder)
    assert found.channel_B.tolist() == [0, 1, 0]
    assert found.reward_B.tolist() == [0.0, 1.0, 0.0] and found.cost_B.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(WindowError, match="without targets"):
        labels(WindowBatch.from_steps(steps(journey("u", "so")), None, SPEC), encoder)
