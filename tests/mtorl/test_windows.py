from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtorl.dataset import OUTCOMES, DatasetSpec
from mtorl.windows import Encoder, WindowBatch, WindowError, history_columns, instance_from_history

Touch = dict[str, Any]

SPEC = DatasetSpec.from_dict(
    {
        "name": "tiny",
        "description": "two channels, a window of three",
        "adapter": "touchpoints",
        "channels": ["search", "social"],
        "context": [
            {"name": "hour", "kind": "numeric", "missing": "unknown"},
            {"name": "device", "kind": "categorical", "missing": "unknown"},
        ],
        "static": [
            {"name": "age", "kind": "categorical", "missing": "unknown"},
            {"name": "tenure", "kind": "numeric", "missing": "unknown"},
        ],
        "segment": "age",
        "reward": {"gain": "click", "cost_weight": 0.5},
        "propensity": "logged",
        "currency": "EUR",
        "window": 3,
    }
)

number = st.floats(-1e6, 1e6, allow_nan=False, width=32)
touch = st.fixed_dictionaries(
    {
        "channel": st.sampled_from(SPEC.channels),
        "click": st.integers(0, 1),
        "conversion": st.integers(0, 1),
        "revenue": number,
        "cost": st.floats(0, 10),
        "hour": st.none() | number,
        "device": st.none() | st.sampled_from(["mobile", "desktop", "", "Tab\u00e9l"]),
    }
)
static = st.fixed_dictionaries({"age": st.none() | st.sampled_from(["18-24", "65+"]), "tenure": st.none() | number})
journey = st.tuples(static, st.lists(touch, min_size=1, max_size=9))


def joined(journeys: list[tuple[Touch, list[Touch]]], spec: DatasetSpec = SPEC) -> list[Touch]:
    """The windows table, the slow way: each touchpoint with its user's strictly past ones."""
    rows = []
    for features, touches in journeys:
        for k, now in enumerate(touches):
            past = touches[max(0, k - spec.window) : k]
            lists = {name: [t[name.removeprefix("hist_")] for t in past] for name in history_columns(spec)}
            rows.append({**features, **now, **lists})
    return rows


def table(rows: list[Touch], spec: DatasetSpec = SPEC) -> pa.Table:
    kinds = {"channel": pa.string(), **dict.fromkeys(OUTCOMES, pa.float64())}
    for column in (*spec.context, *spec.static):
        kinds[column.name] = pa.float64() if column.kind == "numeric" else pa.string()
    fields = list(kinds.items()) + [
        (name, pa.list_(kinds[name.removeprefix("hist_")])) for name in history_columns(spec)
    ]
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in fields})


def online(rows: list[Touch], spec: DatasetSpec = SPEC) -> WindowBatch:
    """The same rows through the serving door, JSON included."""
    instances = [instance_from_history(row, row, row, spec) for row in rows]
    return WindowBatch.from_instances(json.loads(json.dumps(instances)), spec)


def touches(count: int, **changes: Any) -> list[Touch]:
    base = {
        "channel": "search",
        "click": 0,
        "conversion": 0,
        "revenue": 0.0,
        "cost": 1.0,
        "hour": 1.0,
        "device": "mobile",
    }
    return [{**base, "hour": float(i), **changes} for i in range(count)]


KNOWN = ({"age": "18-24", "tenure": 10.0}, touches(3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(journey, min_size=1, max_size=4), st.lists(journey, min_size=1, max_size=3))
def test_both_doors_give_the_same_numbers_bit_for_bit(train, test):
    encoder = Encoder.fit(WindowBatch.from_joined(table(joined(train)), SPEC, targets=True), SPEC)
    rows = joined(test)
    offline_x, offline_length = encoder.encode(WindowBatch.from_joined(table(rows), SPEC))
    online_x, online_length = encoder.encode(online(rows))
    assert offline_x.dtype == np.float32 and offline_x.shape == (len(rows), SPEC.window, encoder.dim)
    assert offline_length.tolist() == online_length.tolist()
    assert offline_x.tobytes() == online_x.tobytes()
    # One at a time, as a server may get them; and in another order, which must not move a vocabulary.
    assert b"".join(encoder.encode(online([row]))[0].tobytes() for row in rows) == offline_x.tobytes()
    assert encoder.encode(WindowBatch.from_joined(table(rows[::-1]), SPEC))[0][::-1].tobytes() == offline_x.tobytes()
    assert np.isfinite(offline_x).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(static, st.lists(touch, min_size=2, max_size=9), st.data())
def test_the_future_moves_no_token(features, seen, data):
    k = data.draw(st.integers(0, len(seen) - 1), label="first changed touchpoint")
    other = data.draw(st.lists(touch, min_size=len(seen), max_size=len(seen)), label="another future")
    later = seen[:k] + [
        {**t, "hour": now["hour"], "device": now["device"]} for t, now in zip(other[k:], seen[k:], strict=True)
    ]
    encoder = Encoder.fit(WindowBatch.from_joined(table(joined([(features, seen)])), SPEC, targets=True), SPEC)

    def tokens(history: list[Touch], build: Any) -> np.ndarray:
        return encoder.encode(build(joined([(features, history)])))[0]

    for build in (online, lambda rows: WindowBatch.from_joined(table(rows), SPEC)):
        before, after = tokens(seen, build), tokens(later, build)
        # Outcomes and actions from touchpoint k on: the windows that end at k or before stay as they are ...
        assert before[: k + 1].tobytes() == after[: k + 1].tobytes()
        # ... and in later windows, so do the tokens of touchpoints up to k.
        for end in range(k + 1, len(seen)):
            first = max(0, end + 1 - SPEC.window)
            kept = max(0, k - first + 1)
            assert before[end, :kept].tobytes() == after[end, :kept].tobytes()
        # Contexts as well: everything before k stays.
        assert tokens(seen, build)[:k].tobytes() == tokens(seen[:k] + other[k:], build)[:k].tobytes()


def test_the_next_token_does_change():
    encoder = Encoder.fit(WindowBatch.from_joined(table(joined([KNOWN])), SPEC, targets=True), SPEC)
    changed = (KNOWN[0], [KNOWN[1][0], {**KNOWN[1][1], "channel": "social"}, KNOWN[1][2]])
    before, after = (encoder.encode(online(joined([j])))[0][2] for j in (KNOWN, changed))
    assert (before[:2] == after[:2]).all() and (before[2] != after[2]).any()


def test_tokens_pair_the_previous_touchpoint_with_the_present_context():
    seen = [
        {**touches(1)[0], "channel": "search", "click": 1, "hour": 8.0},
        {**touches(1)[0], "channel": "social", "cost": 2.0, "hour": 9.0, "device": "desktop"},
    ]
    now = {"hour": 10.0, "device": "mobile"}
    row = {**joined([({"age": "18-24", "tenure": 1.0}, [*seen, {**seen[0], **now}])])[2]}
    assert instance_from_history(row, now, {"age": "18-24"}, SPEC) == {
        "prev_channel": [None, "search", "social"],
        "prev_click": [0.0, 1, 0],
        "prev_conversion": [0.0, 0, 0],
        "prev_revenue": [0.0, 0.0, 0.0],
        "prev_cost": [0.0, 1.0, 2.0],
        "context": {"hour": [8.0, 9.0, 10.0], "device": ["mobile", "desktop", "mobile"]},
        "static": {"age": "18-24", "tenure": None},
    }
    encoder = Encoder(SPEC.channels, 3, "click", 0.5, -1.0, 1.0, Encoder.fit(online([row]), SPEC).slots, SPEC.segment)
    x, length = encoder.encode(online([row]))
    assert length.tolist() == [3]
    hour = (np.array([8.0, 9.0, 10.0]) - 9.0) / np.std([8.0, 9.0, 10.0])
    # search social start | reward | hour | desktop mobile unknown | 18-24 unknown | tenure
    expected = [
        [0, 0, 1, 0.0, hour[0], 0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0.75, hour[1], 1, 0, 0, 1, 0, 0],  # (1 - .5 * 1 + 1) / 2
        [0, 1, 0, 0.0, hour[2], 0, 1, 0, 1, 0, 0],  # (0 - .5 * 2 + 1) / 2
    ]
    assert x[0].tolist() == np.array(expected, dtype=np.float32).tolist()
    assert encoder.segment_slice() == (8, 10)


@pytest.mark.parametrize("k", range(6))
def test_a_window_has_its_last_n_tokens(k):
    batch = online([joined([({"age": None, "tenure": None}, touches(k + 1))])[k]])
    assert batch.length_B.tolist() == [min(k + 1, 3)]
    begins = batch.prev_channel_N[0] == len(SPEC.channels)
    assert begins == (k < 3)
    assert batch.context["hour"].tolist() == [float(t) for t in range(k + 1)][-3:]


def test_a_history_longer_than_the_window_is_cut():
    now = {"hour": 9.0, "device": None}
    long = {name: [t[name.removeprefix("hist_")] for t in touches(7)] for name in history_columns(SPEC)}
    short = {name: values[-3:] for name, values in long.items()}
    assert instance_from_history(long, now, {}, SPEC) == instance_from_history(short, now, {}, SPEC)
    rows = {**now, "age": None, "tenure": 1.0}
    encoder = Encoder.fit(online(joined([KNOWN])), SPEC)
    both = WindowBatch.from_joined(table([{**rows, **touches(1)[0], **h} for h in (long, short)]), SPEC)
    x = encoder.encode(both)[0]
    assert x[0].tobytes() == x[1].tobytes()


@pytest.mark.parametrize(
    "history", [{}, dict.fromkeys(history_columns(SPEC)), {name: [] for name in history_columns(SPEC)}]
)
def test_an_unknown_user_is_an_empty_history(history):
    instance = instance_from_history(history, {"hour": 1.0, "device": "mobile"}, {}, SPEC)
    assert instance["prev_channel"] == [None] and instance["prev_cost"] == [0.0]
    assert instance["static"] == {"age": None, "tenure": None}
    batch = WindowBatch.from_instances([instance], SPEC)
    encoder = Encoder.fit(online(joined([KNOWN])), SPEC)
    x, length = encoder.encode(batch)
    start, stop = encoder.segment_slice()
    assert length.tolist() == [1]
    assert x[0, 0, start:stop].tolist() == [0.0, 1.0]  # the unknown segment


def test_null_histories_in_a_table_are_empty_ones():
    rows = joined([KNOWN])[:1] * 2
    rows[1] = {**rows[1], **dict.fromkeys(history_columns(SPEC))}
    batch = WindowBatch.from_joined(table(rows), SPEC, targets=True)
    assert batch.length_B.tolist() == [1, 1]
    frame = pd.DataFrame(rows)  # all lists empty or null: pandas and Arrow know no type
    assert WindowBatch.from_joined(frame, SPEC).prev_channel_N.tolist() == [2, 2]


def test_pandas_and_arrow_and_large_types_are_read_alike():
    rows = joined([KNOWN, ({"age": None, "tenure": None}, touches(5, device=None))])
    wanted = WindowBatch.from_joined(table(rows), SPEC, targets=True)
    large = table(rows)
    for i, name in enumerate(large.column_names):
        if name.startswith("hist_"):
            large = large.set_column(i, name, large[name].cast(pa.large_list(large[name].type.value_type)))
        elif name == "age":
            large = large.set_column(i, name, large[name].dictionary_encode())
    encoder = Encoder.fit(wanted, SPEC)
    frame = table(rows).to_pandas()
    for other in (
        large,
        frame,
        frame.astype({"age": "category"}),
        pa.concat_tables([large.slice(0, 4), large.slice(4)]),
    ):
        batch = WindowBatch.from_joined(other, SPEC, targets=True)
        assert encoder.encode(batch)[0].tobytes() == encoder.encode(wanted)[0].tobytes()
        assert (encoder.targets(batch)["channel_BT"] == encoder.targets(wanted)["channel_BT"]).all()


def test_unseen_categories_are_unknown_and_outliers_are_clipped():
    encoder = Encoder.fit(online(joined([KNOWN])), SPEC)
    row = {**joined([KNOWN])[0], "device": "fridge", "hour": 1e9}
    x = encoder.encode(online([row]))[0][0, 0]
    assert x[4] == 5.0
    assert x[5:7].tolist() == [0.0, 1.0]  # mobile, unknown
    nothing = encoder.encode(online([{**row, "device": None, "hour": None}]))[0][0, 0]
    assert nothing[4] == 0.0 and nothing[5:7].tolist() == [0.0, 1.0]


def test_targets_are_what_happened_at_each_token():
    seen = [
        {**t, "channel": c, "click": k}
        for t, c, k in zip(touches(4), ["search", "social"] * 2, [0, 1, 1, 0], strict=True)
    ]
    batch = WindowBatch.from_joined(table(joined([(KNOWN[0], seen)])), SPEC, targets=True)
    encoder = Encoder.fit(batch, SPEC)
    assert (encoder.reward_min, encoder.reward_max) == (-0.5, 0.5)
    found = encoder.targets(batch)
    assert found["channel_BT"].tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 0], [1, 0, 1]]
    assert found["reward_BT"].tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert found["cost_BT"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    with pytest.raises(WindowError, match="without targets"):
        encoder.targets(online(joined([KNOWN])))


@given(st.floats(0, 1), st.floats(0, 20), st.floats(-5, 5), st.floats(0.01, 50))
def test_unreward_undoes_reward(gain, cost, low, span):
    encoder = Encoder(SPEC.channels, 3, "click", 0.05, low, low + span, (), None)
    r = encoder.reward(gain, cost)
    assert 0 <= r <= 1
    if low <= gain - 0.05 * cost <= low + span:
        assert encoder.unreward(r, cost) == pytest.approx(gain, abs=1e-9)


def test_an_encoder_survives_json():
    encoder = Encoder.fit(WindowBatch.from_joined(table(joined([KNOWN])), SPEC, targets=True), SPEC)
    assert Encoder.from_dict(json.loads(json.dumps(encoder.to_dict()))) == encoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prev_channel": ["radio"]}, r"instance 1: unknown channel 'radio' in prev_channel; known: search, social"),
        ({"prev_channel": []}, r"instance 1: 0 tokens; a window has 1 to 3"),
        ({"prev_channel": [None] * 4}, r"instance 1: 4 tokens; a window has 1 to 3"),
        ({"prev_channel": [["search"]]}, r"instance 1: expected an object with lists"),
        ({"prev_click": [0, 0]}, r"instance 1: prev_click needs a list of 1 values, got 2"),
        ({"prev_cost": [None]}, r"instance 1: prev_cost holds None, expected numbers"),
        ({"prev_cost": [float("inf")]}, r"instance 1: prev_cost holds a number that is not finite"),
        ({"prev_cost": "1"}, r"instance 1: prev_cost needs a list of 1 values, got '1'"),
        ({"context": {"hour": ["8"], "device": ["mobile"]}}, r"instance 1: context.hour holds '8', expected numbers"),
        ({"context": {"hour": [8], "device": [3]}}, r"instance 1: context.device holds 3, expected text"),
        ({"context": {"hour": [8]}}, r"instance 1: device is missing"),
        ({"static": {"age": 30, "tenure": 1}}, r"instance 1: static.age holds 30, expected text"),
        ({"static": None}, r"instance 1: expected an object with lists"),
    ],
)
def test_a_malformed_instance_is_named(change, message):
    good = instance_from_history({}, {"hour": 8.0, "device": "mobile"}, {}, SPEC)
    with pytest.raises(WindowError, match=message) as caught:
        WindowBatch.from_instances([good, {**good, **change}], SPEC)
    assert caught.value.index == 1
    with pytest.raises(WindowError, match="instance 0: expected an object"):
        WindowBatch.from_instances(["rubbish"], SPEC)
    with pytest.raises(WindowError, match="instance 0: prev_channel is missing"):
        WindowBatch.from_instances([{}], SPEC)


def test_a_start_in_mid_journey_is_an_error():
    good = instance_from_history(joined([KNOWN])[2], {"hour": 8.0, "device": "mobile"}, {}, SPEC)
    with pytest.raises(WindowError, match="unknown channel None"):
        WindowBatch.from_instances([{**good, "prev_channel": [None, None, "search"]}], SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hist_channel": ["search", "radio"]}, r"hist_channel: unknown channel 'radio'; known: search, social"),
        ({"hist_channel": ["search", None]}, r"hist_channel: a null channel; known"),
        ({"hist_click": [0]}, r"row 2: hist_click has 1 touchpoints, hist_channel 2"),
        ({"hist_cost": [1.0, None]}, r"hist_cost: 1 values are null or not finite"),
        ({"channel": "radio"}, r"channel: unknown channel 'radio'"),
        ({"cost": None}, r"cost: 1 values are null"),
    ],
)
def test_a_malformed_table_is_refused(change, message):
    rows = joined([KNOWN])
    rows[2] = {**rows[2], **change}
    with pytest.raises(WindowError, match=message):
        WindowBatch.from_joined(table(rows), SPEC, targets=True)


def test_wrong_columns_and_types_are_refused():
    good = table(joined([KNOWN]))
    with pytest.raises(WindowError, match="missing columns hist_cost, tenure"):
        WindowBatch.from_joined(good.drop_columns(["tenure", "hist_cost"]), SPEC)
    for name, values, message in (
        ("hour", pa.array(["8", "9", "10"]), "hour: expected numbers, got string"),
        ("device", pa.array([1, 2, 3]), "device: expected text, got int64"),
        ("hist_cost", pa.array([1.0, 2.0, 3.0]), "hist_cost: expected a column of lists, got double"),
    ):
        with pytest.raises(WindowError, match=message):
            WindowBatch.from_joined(good.set_column(good.column_names.index(name), name, values), SPEC)


def test_histories_and_contexts_are_checked_before_they_become_json():
    row = joined([KNOWN])[2]
    with pytest.raises(WindowError, match="history: hist_cost has 1 touchpoints, hist_channel 2"):
        instance_from_history({**row, "hist_cost": [1.0]}, row, {}, SPEC)
    strict = DatasetSpec.load("simulator")
    with pytest.raises(WindowError, match="context: device is missing"):
        instance_from_history({}, {"hour": 1.0, "placement": "feed"}, {}, strict)
    numpy = {name: np.array(row[name], dtype=object) for name in history_columns(SPEC)}
    assert instance_from_history(numpy, {"hour": np.float64("nan")}, {}, SPEC)["context"]["hour"] == [0.0, 1.0, None]
