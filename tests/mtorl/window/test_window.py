from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.window import history as past
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, WindowError, history_columns, instance_from_history

Touch = dict[str, Any]

HOUR = 3_600_000_000  # us
GAP = 24 * HOUR

SPEC = DatasetSpec.from_dict(
    {
        "name": "tiny",
        "description": "two channels, a window of three, and a journey ends after a day",
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
        "journey_gap_days": 1.0,
    }
)

number = st.floats(-1e6, 1e6, allow_nan=False, width=32)
content = {
    "channel": st.sampled_from(SPEC.channels),
    "click": st.integers(0, 1),
    "conversion": st.integers(0, 1),
    "revenue": number,
    "cost": st.floats(0, 10),
    "hour": st.none() | number,
    "device": st.none() | st.sampled_from(["mobile", "desktop", "Tab\u00e9l"]),
}
touch = st.fixed_dictionaries(
    {
        **content,
        # Since the touchpoint before, and until it is known: both may end a journey, to the microsecond.
        "pause": st.sampled_from([1, HOUR, 2 * HOUR, GAP - 1, GAP, GAP + 1, 3 * GAP]),
        "late": st.sampled_from([None, None, 0, 1, HOUR, 2 * HOUR, 3 * HOUR, GAP, GAP + HOUR, 9 * GAP]),
    }
)
static = st.fixed_dictionaries({"age": st.none() | st.sampled_from(["18-24", "65+"]), "tenure": st.none() | number})
journey = st.tuples(static, st.lists(touch, min_size=1, max_size=9))


def log(journeys: list[tuple[Touch, list[Touch]]]) -> list[Touch]:
    """A sorted log, one user per journey; times are microseconds, `known` is when a touchpoint had arrived."""
    rows = []
    for user, (features, touches) in enumerate(journeys):
        at = 1_700_000_000_000_000
        for now in touches:
            at += now.get("pause", HOUR)
            late = now.get("late")
            created = None if late is None else at + late
            times = {"timestamp": at, "created_timestamp": created, "known": created or at}
            rows.append({**features, **now, "user_id": f"u{user}", **times})
    return rows


def table(rows: list[Touch]) -> pa.Table:
    time = pa.timestamp("us", tz="UTC")
    kinds = {"user_id": pa.string(), "timestamp": time, "created_timestamp": time, "channel": pa.string()}
    kinds |= dict.fromkeys(OUTCOMES, pa.float64())
    for column in (*SPEC.context, *SPEC.static):
        kinds[column.name] = pa.float64() if column.kind == "numeric" else pa.string()
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def offline(rows: list[Touch], targets: bool = False) -> WindowBatch:
    return WindowBatch.from_steps(table(rows), None, SPEC, targets)


def stored(rows: list[Touch], now: Touch) -> dict[str, list[Any]]:
    """What a feature store holds of a user at the time of a touchpoint: all that is known, nulls in its own way."""
    known = [row for row in rows if row["user_id"] == now["user_id"] and row["known"] < now["timestamp"]]
    null = {"hour": float("nan"), "device": ""}
    names = ("timestamp", *(name.removeprefix("hist_") for name in history_columns(SPEC)))
    return {f"hist_{name}": [null[name] if row[name] is None else row[name] for row in known] for name in names}


def online(rows: list[Touch], whole: list[Touch] | None = None) -> WindowBatch:
    """The windows of rows of a log through the serving door, JSON included."""
    instances = [instance_from_history(stored(whole or rows, row), row, row, SPEC, row["timestamp"]) for row in rows]
    return WindowBatch.from_instances(json.loads(json.dumps(instances)), SPEC)


def touches(count: int, **changes: Any) -> list[Touch]:
    base = {"channel": "search", "click": 0, "conversion": 0, "revenue": 0.0, "cost": 1.0, "device": "mobile"}
    return [{**base, "hour": float(i), **changes} for i in range(count)]


KNOWN = ({"age": "18-24", "tenure": 10.0}, touches(3))
FITTED = Encoder.fit(offline(log([KNOWN, ({"age": "65+", "tenure": 9.5}, touches(2, device="desktop"))]), True), SPEC)


def same(one: WindowBatch, other: WindowBatch) -> bool:
    """Equal inputs, bit for bit."""
    (a, a_length), (b, b_length) = FITTED.encode(one), FITTED.encode(other)
    return a.tobytes() == b.tobytes() and a_length.tolist() == b_length.tolist()


# ---- both doors


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(journey, min_size=1, max_size=4), st.lists(journey, min_size=1, max_size=3))
def test_both_doors_give_the_same_numbers_bit_for_bit(train, test):
    encoder = Encoder.fit(offline(log(train), targets=True), SPEC)
    rows = log(test)
    offline_x, offline_length = encoder.encode(offline(rows))
    online_x, online_length = encoder.encode(online(rows))
    assert offline_x.dtype == np.float32 and offline_x.shape == (len(rows), SPEC.window, encoder.dim)
    assert offline_length.tolist() == online_length.tolist()
    assert offline_x.tobytes() == online_x.tobytes()
    # One at a time, as a server may get them; and in another order, which must not move a vocabulary.
    assert b"".join(encoder.encode(online([row], rows))[0].tobytes() for row in rows) == offline_x.tobytes()
    backwards = WindowBatch.from_steps(table(rows), np.arange(len(rows))[::-1], SPEC)
    assert encoder.encode(backwards)[0][::-1].tobytes() == offline_x.tobytes()
    assert np.isfinite(offline_x).all()


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=3))
def test_the_past_is_the_newest_known_touchpoints_of_the_journey(journeys):
    """Both doors against the definition, written out."""
    rows = log(journeys)
    batch, instances = offline(rows, targets=True), online(rows)
    for i, now in enumerate(rows):
        known = [j for j in range(i) if rows[j]["user_id"] == now["user_id"] and rows[j]["known"] < now["timestamp"]]
        seen, later = [i], now["timestamp"]
        for j in known[::-1][: SPEC.window]:
            if later - rows[j]["timestamp"] > GAP:
                break
            seen, later = [j, *seen], rows[j]["timestamp"]
        own = seen if len(seen) <= SPEC.window else seen[1:]
        assert batch.targets.touchpoint_N[batch.row_N == i].tolist() == own
        assert batch.length_B[i] == instances.length_B[i] == len(own)
        before = [None] * (len(seen) <= SPEC.window) + [rows[j]["channel"] for j in seen[:-1]]
        code = [len(SPEC.channels) if name is None else SPEC.channels.index(name) for name in before]
        for found in (batch, instances):
            assert found.prev_channel_N[found.row_N == i].tolist() == code


@settings(max_examples=150)
@given(static, st.lists(touch, min_size=1, max_size=9), st.data())
def test_what_happens_later_or_is_known_later_moves_no_input(features, seen, data):
    """Rewrite, remove and add rows from time t on, and rows that were not known at t: the window at t stays."""
    rows = log([(features, seen)])
    times = {row["timestamp"] for row in rows}
    k = data.draw(st.integers(0, len(rows) - 1), label="the decision")
    now, changed = rows[k], []
    for row in rows:
        other = data.draw(st.fixed_dictionaries(content), label="another touchpoint")
        if row is now:
            changed.append({**row, **other, "hour": row["hour"], "device": row["device"]})  # its context is given
        elif row["known"] < now["timestamp"]:
            changed.append(row)
        elif data.draw(st.booleans(), label="stays"):
            changed.append({**row, **other})
        at = row["timestamp"] + 1
        if at not in times and data.draw(st.booleans(), label="one more"):
            known = max(at, now["timestamp"]) + data.draw(st.sampled_from([1, HOUR, 9 * GAP]), label="known after")
            changed.append({**row, **other, "timestamp": at, "created_timestamp": known, "known": known})
    kept = next(i for i, row in enumerate(changed) if row["timestamp"] == now["timestamp"])
    found = WindowBatch.from_steps(table(changed), np.array([kept]), SPEC)
    assert same(found, WindowBatch.from_steps(table(rows), np.array([k]), SPEC))
    assert same(found, online([changed[kept]], changed))


@settings(max_examples=150)
@given(st.lists(journey, min_size=1, max_size=2))
def test_a_token_has_a_target_if_it_is_what_was_decided_on(journeys):
    """The past of a valid token inside the window is that of the token's own window; that of another one is not."""
    rows = log(journeys)
    batch = offline(rows, targets=True)
    tokens = past.Timeline.of(table(rows)).tokens(np.arange(len(rows)), SPEC.window, GAP)
    before = [[p for p in tokens.prev_N[batch.row_N == i].tolist() if p >= 0] for i in range(len(rows))]
    for i in range(len(rows)):
        valid = batch.targets.valid_N[batch.row_N == i]
        assert valid[-1]
        own, prev = batch.targets.touchpoint_N[batch.row_N == i].tolist(), tokens.prev_N[batch.row_N == i].tolist()
        assert prev[0] >= 0 or before[own[0]] == []
        for place, j in enumerate(own):
            inside = [p for p in prev[: place + 1] if p >= 0]
            assert valid[place] == (inside == before[j][len(before[j]) - len(inside) :])
    padded = FITTED.targets(batch)
    assert (padded["channel_BT"] >= 0).sum() == batch.targets.valid_N.sum()
    for name in ("reward_BT", "cost_BT"):
        assert (padded[name][padded["channel_BT"] < 0] == 0).all()


def test_a_late_touchpoint_is_unknown_until_it_arrives_and_takes_away_a_target():
    first, second, third = touches(3)
    rows = log([(KNOWN[0], [first, {**second, "channel": "social", "late": HOUR + 1}, third, third, third])])
    batch = offline(rows, targets=True)
    windows = [batch.targets.touchpoint_N[batch.row_N == i].tolist() for i in range(5)]
    # Third: the second is not known yet. Fourth: it is, and the third had been decided on without it.
    assert windows == [[0], [0, 1], [0, 2], [1, 2, 3], [2, 3, 4]]
    valid = [batch.targets.valid_N[batch.row_N == i].tolist() for i in range(5)]
    assert valid == [[True], [True, True], [True, True], [True, False, True], [False, True, True]]
    assert FITTED.targets(batch)["channel_BT"][3].tolist() == [1, -1, 0]


@pytest.mark.parametrize(("pause", "length"), [(GAP, 3), (GAP + 1, 1)])
def test_a_pause_longer_than_the_gap_begins_a_journey(pause, length):
    first, second, third = touches(3)
    rows = log([(KNOWN[0], [first, second, {**third, "pause": pause}])])
    assert offline(rows).length_B.tolist() == [1, 2, length]
    assert same(offline(rows), online(rows))
    rows = log([(KNOWN[0], [first, {**second, "pause": pause}, third])])  # the same between two past ones
    assert offline(rows).length_B.tolist() == [1, min(2, length), max(2, length)]
    assert same(offline(rows), online(rows))


def test_chunks_change_nothing(monkeypatch):
    rows = log([(KNOWN[0], touches(9, late=2 * HOUR)), (KNOWN[0], touches(4))])
    whole = offline(rows, targets=True)
    monkeypatch.setattr(past, "_CHUNK", 4)
    parts = offline(rows, targets=True)
    assert same(whole, parts)
    assert whole.targets.valid_N.tolist() == parts.targets.valid_N.tolist()


def test_the_next_token_does_change():
    changed = (KNOWN[0], [KNOWN[1][0], {**KNOWN[1][1], "channel": "social"}, KNOWN[1][2]])
    before, after = (FITTED.encode(online(log([j])))[0][2] for j in (KNOWN, changed))
    assert (before[:2] == after[:2]).all() and (before[2] != after[2]).any()


def test_tokens_pair_the_previous_touchpoint_with_the_present_context():
    seen = [
        {**touches(1)[0], "channel": "search", "click": 1, "hour": 8.0},
        {**touches(1)[0], "channel": "social", "cost": 2.0, "hour": 9.0, "device": "desktop"},
        {**touches(1)[0], "hour": 10.0, "device": "mobile"},
    ]
    rows = log([({"age": "18-24", "tenure": 1.0}, seen)])
    now = rows[2]
    assert instance_from_history(stored(rows, now), now, {"age": "18-24"}, SPEC, now["timestamp"]) == {
        "timestamp": now["timestamp"],
        "prev_channel": [None, "search", "social"],
        "prev_timestamp": [None, rows[0]["timestamp"], rows[1]["timestamp"]],
        "prev_click": [0.0, 1, 0],
        "prev_conversion": [0.0, 0, 0],
        "prev_revenue": [0.0, 0.0, 0.0],
        "prev_cost": [0.0, 1.0, 2.0],
        "context": {"hour": [8.0, 9.0, 10.0], "device": ["mobile", "desktop", "mobile"]},
        "static": {"age": "18-24", "tenure": None},
    }
    window = online([now], rows)
    encoder = Encoder(SPEC.channels, 3, "click", 0.5, -1.0, 1.0, Encoder.fit(window, SPEC).slots, SPEC.segment)
    x, length = encoder.encode(window)
    assert length.tolist() == [3]
    hour = (np.array([8.0, 9.0, 10.0]) - 9.0) / np.std([8.0, 9.0, 10.0])
    # The two touchpoints before have clicks 1, 0 and costs 1, 2; the tenth part of the costs lie below 1.1.
    cost = np.arcsinh(np.array([1.0, 2.0]) / 1.1)
    cost = (cost - cost.mean()) / cost.std()
    angle = [row["timestamp"] % (24 * HOUR) / HOUR * (2 * np.pi / 24) for row in rows]
    clock = np.stack([np.sin(angle), np.cos(angle)], axis=1).tolist()
    # search social start, reward, click, cost, clock, pause, hour, desktop mobile unknown, 18-24 unknown, tenure
    expected = [
        [0, 0, 1, 0.0, 0, 0, *clock[0], 0, hour[0], 0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0.75, 1, cost[0], *clock[1], 0, hour[1], 1, 0, 0, 1, 0, 0],  # (1 - .5 * 1 + 1) / 2
        [0, 1, 0, 0.0, -1, cost[1], *clock[2], 0, hour[2], 0, 1, 0, 1, 0, 0],  # (0 - .5 * 2 + 1) / 2
    ]
    assert x[0].tolist() == np.array(expected, dtype=np.float32).tolist()
    assert encoder.segment_slice() == (13, 15)


def test_a_pause_is_that_before_the_token_s_own_touchpoint():
    rows = log([(KNOWN[0], [*touches(2), *touches(3, pause=2 * HOUR)])])
    batch = offline(rows)
    assert [batch.time["recency_hours"][batch.row_N == i].tolist()[1:] for i in range(3)] == [[], [1.0], [1.0, 2.0]]
    # The oldest context is dropped, and with it the pause before it; the previous touchpoint's time is still there.
    assert batch.time["recency_hours"][batch.row_N == 4].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(batch.time["recency_hours"][batch.prev_channel_N == len(SPEC.channels)]).all()
    hours = [row["timestamp"] % (24 * HOUR) / HOUR for row in rows]
    assert batch.time["hour_of_day"][batch.row_N == 4].tolist() == hours[2:]
    encoder = Encoder.fit(batch, SPEC)
    last_B = np.cumsum(batch.length_B) - 1
    at = len(SPEC.channels) + 2 + 2 + 2  # behind the channel, the reward, two outcomes and the clock
    pauses_BT = encoder.encode(batch)[0][..., at]
    short, long = pauses_BT[1, 1], pauses_BT[2, 2]
    assert short < long and pauses_BT[batch.row_N, batch.step_N][last_B].tolist() == [0.0, short, long, long, long]


def test_a_rare_category_is_read_like_an_unknown_one():
    users = [({"age": "65+" if i % 100 == 0 else "18-24", "tenure": 1.0}, touches(2)) for i in range(5000)]
    users += [({"age": "7", "tenure": 1.0}, touches(4))]
    encoder = Encoder.fit(offline(log(users)), SPEC)
    age = next(slot for slot in encoder.slots if slot.name == "age")
    assert age.values == ("18-24", "65+") and age.width == 3
    few = Encoder.fit(offline(log(users[-3:])), SPEC)
    assert next(slot for slot in few.slots if slot.name == "age").values == ("18-24", "7")


def test_what_is_reported_late_is_no_input():
    """A conversion that takes days: neither itself nor the reward that it makes may be seen a touchpoint later."""
    late = SPEC.replace(immediate=("cost",), reward=SPEC.reward.replace(gain="conversion"))
    seen = touches(3)
    other = [{**touch, "conversion": 1 - touch["conversion"], "click": 1, "revenue": 9.0} for touch in seen]
    encoder = Encoder.fit(offline(log([(KNOWN[0], seen)]), targets=True), late)
    assert [slot.name for slot in encoder.slots if slot.source == "outcome"] == ["cost"]
    one, two = (encoder.encode(offline(log([(KNOWN[0], touches)])))[0] for touches in (seen, other))
    assert one.tobytes() == two.tobytes()
    dearer = [{**touch, "cost": 3.0} for touch in seen]
    assert one.tobytes() != encoder.encode(offline(log([(KNOWN[0], dearer)])))[0].tobytes()


@pytest.mark.parametrize("k", range(6))
def test_a_window_has_its_last_n_tokens(k):
    rows = log([({"age": None, "tenure": None}, touches(k + 1))])
    batch = online(rows[k:], rows)
    assert batch.length_B.tolist() == [min(k + 1, 3)]
    begins = batch.prev_channel_N[0] == len(SPEC.channels)
    assert begins == (k < 3)
    assert batch.context["hour"].tolist() == [float(t) for t in range(k + 1)][-3:]


def test_what_a_store_holds_beyond_the_past_is_left_out():
    rows = log([(KNOWN[0], touches(9))])
    now = rows[6]
    whole = {f"hist_{name}": [row[name] for row in rows] for name in ("timestamp", *content)}
    last = {name: values[3:6] for name, values in whole.items()}
    instances = [instance_from_history(history, now, {}, SPEC, now["timestamp"]) for history in (whole, last)]
    assert instances[0] == instances[1]
    assert instances[0]["context"]["hour"] == [4.0, 5.0, 6.0]
    as_floats = {**last, "hist_timestamp": np.array(last["hist_timestamp"], dtype=float)}
    assert instance_from_history(as_floats, now, {}, SPEC, float(now["timestamp"])) == instances[0]


@pytest.mark.parametrize(
    "history",
    [
        {},
        dict.fromkeys((*history_columns(SPEC), "hist_timestamp")),
        {name: [] for name in (*history_columns(SPEC), "hist_timestamp")},
    ],
)
def test_an_unknown_user_is_an_empty_history(history):
    instance = instance_from_history(history, {"hour": 1.0, "device": "mobile"}, {}, SPEC, HOUR)
    assert instance["prev_channel"] == [None] and instance["prev_cost"] == [0.0]
    assert instance["static"] == {"age": None, "tenure": None}
    batch = WindowBatch.from_instances([instance], SPEC)
    x, length = FITTED.encode(batch)
    start, stop = FITTED.segment_slice()
    assert length.tolist() == [1]
    assert x[0, 0, start:stop].tolist() == [0.0, 0.0, 1.0]  # the unknown segment


def test_empty_text_is_null_at_every_door():
    rows = log([({"age": "", "tenure": None}, touches(2, device=""))])
    nulls = log([({"age": None, "tenure": None}, touches(2, device=None))])
    history = {**stored(nulls, nulls[1]), "hist_device": [""]}
    instance = instance_from_history(history, rows[1], rows[1], SPEC, rows[1]["timestamp"])
    assert instance["context"]["device"] == [None, None] and instance["static"]["age"] is None
    raw = {**instance, "context": {**instance["context"], "device": ["", ""]}, "static": {"age": "", "tenure": None}}
    for batch in (offline(rows), online(rows), offline(nulls)):
        assert same(batch, online(nulls))
    assert same(WindowBatch.from_instances([raw], SPEC), WindowBatch.from_instances([instance], SPEC))


def test_arrow_types_and_chunks_are_read_alike():
    rows = log([KNOWN, ({"age": None, "tenure": None}, touches(5, device=None, late=HOUR))])
    wanted, plain = offline(rows, targets=True), table(rows)
    coded = large = nanos = plain
    for i, name in enumerate(plain.column_names):
        if plain[name].type == pa.string():
            coded = coded.set_column(i, name, plain[name].dictionary_encode())
            large = large.set_column(i, name, plain[name].cast(pa.large_string()))
        elif pa.types.is_timestamp(plain[name].type):
            nanos = nanos.set_column(i, name, plain[name].cast(pa.timestamp("ns")))
    chunks = pa.concat_tables([coded.slice(0, 4), coded.slice(4)])  # in the middle of a user
    separate = pa.concat_tables([table(rows[:3]), table(rows[3:])])
    for other in (coded, large, nanos, chunks, separate):
        batch = WindowBatch.from_steps(other, None, SPEC, targets=True)
        assert same(batch, wanted)
        assert (FITTED.targets(batch)["channel_BT"] == FITTED.targets(wanted)["channel_BT"]).all()


def test_rows_choose_windows_and_a_log_needs_no_created_timestamp():
    rows = log([KNOWN, (KNOWN[0], touches(5))])
    steps = table(rows).drop_columns(["created_timestamp"])
    whole = FITTED.encode(WindowBatch.from_steps(steps, None, SPEC))[0]
    some = FITTED.encode(WindowBatch.from_steps(steps, np.array([6, 0, 6]), SPEC))[0]
    assert some.tobytes() == whole[[6, 0, 6]].tobytes()
    assert len(WindowBatch.from_steps(steps, np.array([], dtype=np.int64), SPEC, targets=True)) == 0
    for row in (-1, 8):
        with pytest.raises(WindowError, match="only 8 steps, 0 to 7"):
            WindowBatch.from_steps(steps, np.array([row]), SPEC)


# ---- the encoder


def test_unseen_categories_are_unknown_and_outliers_are_clipped():
    encoder = Encoder.fit(online(log([KNOWN])), SPEC)
    row = {**log([KNOWN])[0], "device": "fridge", "hour": 1e9}
    x = encoder.encode(online([row]))[0][0, 0]
    assert x[9] == 5.0
    assert x[10:12].tolist() == [0.0, 1.0]  # mobile, unknown
    nothing = encoder.encode(online([{**row, "device": None, "hour": None}]))[0][0, 0]
    assert nothing[9] == 0.0 and nothing[10:12].tolist() == [0.0, 1.0]


def test_targets_are_what_happened_at_each_token():
    seen = [
        {**t, "channel": c, "click": k}
        for t, c, k in zip(touches(4), ["search", "social"] * 2, [0, 1, 1, 0], strict=True)
    ]
    batch = offline(log([(KNOWN[0], seen)]), targets=True)
    encoder = Encoder.fit(batch, SPEC)
    assert (encoder.reward_min, encoder.reward_max) == (-0.5, 0.5)
    found = encoder.targets(batch)
    assert found["channel_BT"].tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 0], [1, 0, 1]]
    assert found["reward_BT"].tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert found["cost_BT"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    with pytest.raises(WindowError, match="without targets"):
        encoder.targets(online(log([KNOWN])))


@given(st.floats(0, 1), st.floats(0, 20), st.floats(-5, 5), st.floats(0.01, 50))
def test_unreward_undoes_reward(gain, cost, low, span):
    encoder = Encoder(SPEC.channels, 3, "click", 0.05, low, low + span, (), None)
    r = encoder.reward(gain, cost)
    assert 0 <= r <= 1
    if low <= gain - 0.05 * cost <= low + span:
        assert encoder.unreward(r, cost) == pytest.approx(gain, abs=1e-9)


def test_an_encoder_survives_json():
    assert Encoder.from_dict(json.loads(json.dumps(FITTED.to_dict()))) == FITTED


# ---- faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prev_channel": ["radio"]}, r"instance 1: unknown channel 'radio' in prev_channel; known: search, social"),
        ({"prev_channel": []}, r"instance 1: 0 tokens; a window has 1 to 3"),
        ({"prev_channel": [None] * 4}, r"instance 1: 4 tokens; a window has 1 to 3"),
        ({"prev_channel": [["search"]]}, r"instance 1: expected an object with lists"),
        ({"prev_timestamp": [0]}, r"instance 1: prev_timestamp is not one time a touchpoint, oldest first"),
        ({"prev_timestamp": []}, r"instance 1: prev_timestamp needs a list of 1 values, got 0"),
        ({"timestamp": None}, r"instance 1: timestamp holds None, expected numbers"),
        ({"timestamp": "noon"}, r"instance 1: timestamp holds 'noon', expected numbers"),
        ({"prev_channel": ["search"]}, r"instance 1: prev_timestamp is not one time a touchpoint"),
        ({"prev_channel": ["search"], "prev_timestamp": [HOUR + 1]}, r"instance 1: prev_timestamp is not one time a t"),
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
    good = instance_from_history({}, {"hour": 8.0, "device": "mobile"}, {}, SPEC, HOUR)
    with pytest.raises(WindowError, match=message) as caught:
        WindowBatch.from_instances([good, {**good, **change}], SPEC)
    assert caught.value.index == 1
    with pytest.raises(WindowError, match="instance 0: expected an object"):
        WindowBatch.from_instances(["rubbish"], SPEC)
    with pytest.raises(WindowError, match="instance 0: prev_channel is missing"):
        WindowBatch.from_instances([{}], SPEC)


def test_a_start_in_mid_journey_is_an_error():
    rows = log([KNOWN])
    good = instance_from_history(stored(rows, rows[2]), rows[2], {}, SPEC, rows[2]["timestamp"])
    with pytest.raises(WindowError, match="unknown channel None"):
        WindowBatch.from_instances([{**good, "prev_channel": [None, None, "search"]}], SPEC)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (1, {"channel": "radio"}, r"channel: unknown channel 'radio'; known: search, social"),
        (1, {"channel": None}, r"channel: a null channel; known"),
        (1, {"cost": None}, r"cost: 1 values are null or not finite"),
        (2, {"timestamp": 1}, r"row 2: not later than the row before it; steps must be sorted"),
        (2, {"user_id": "u2"}, r"row 3: its user has rows further up; steps must be sorted"),
        (2, {"user_id": None}, r"user_id is null"),
        (2, {"timestamp": None}, r"row 2: timestamp is null"),
    ],
)
def test_a_malformed_log_is_refused(row, change, message):
    rows = log([KNOWN, KNOWN])
    rows[3]["user_id"] = "u0" if "u2" in change.values() else "u1"
    rows[row] |= change
    with pytest.raises(WindowError, match=message) as caught:
        WindowBatch.from_steps(table(rows), None, SPEC)
    if "row" in message.split(":")[0]:
        assert f"row {caught.value.index}:" in str(caught.value)


def test_ties_are_refused():
    rows = log([KNOWN])
    rows[2]["timestamp"] = rows[1]["timestamp"]
    with pytest.raises(WindowError, match="row 2: not later than the row before it"):
        offline(rows)


def test_wrong_columns_and_types_are_refused():
    good = table(log([KNOWN]))
    with pytest.raises(WindowError, match="missing columns cost, tenure"):
        WindowBatch.from_steps(good.drop_columns(["tenure", "cost"]), None, SPEC)
    for name, values, message in (
        ("hour", pa.array(["8", "9", "10"]), "hour: expected numbers, got string"),
        ("device", pa.array([1, 2, 3]), "device: expected text, got int64"),
        ("user_id", pa.array([1, 2, 3]), "user_id: expected text, got int64"),
        ("timestamp", pa.array([1, 2, 3]), "timestamp: expected times, got int64"),
    ):
        with pytest.raises(WindowError, match=message):
            WindowBatch.from_steps(good.set_column(good.column_names.index(name), name, values), None, SPEC)


def test_histories_and_contexts_are_checked_before_they_become_json():
    rows = log([KNOWN])
    now, history = rows[2], stored(rows[:2], rows[2])

    def build(context=now, **change):
        return instance_from_history({**history, **change}, context, {}, SPEC, now["timestamp"])

    with pytest.raises(WindowError, match="history: hist_cost has 1 touchpoints, hist_channel 2"):
        build(hist_cost=[1.0])
    with pytest.raises(WindowError, match="history: hist_timestamp has 0 touchpoints, hist_channel 2"):
        build(hist_timestamp=None)
    for times in ([2.0, 1.0], [1.0, float("nan")], ["1", "2"], [1.0, None]):
        with pytest.raises(WindowError, match="history: hist_timestamp is not a list of times, oldest first"):
            build(hist_timestamp=times)
    strict = DatasetSpec.load("simulator")
    with pytest.raises(WindowError, match="context: device is missing"):
        instance_from_history({}, {"hour": 1.0, "placement": "feed"}, {}, strict, HOUR)
    numpy = {name: np.array(values, dtype=object) for name, values in history.items()}
    assert build({"hour": np.float64("nan")}, **numpy)["context"]["hour"] == [0.0, 1.0, None]
