"""Tests that the tokens of a window equal values computed by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtorl.baselines.inputs import Summary
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.gain import Gain
from mtorl.window import messages
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, history_columns, instance_from_history, stored_features
from tests.messages import raises
from tests.mtorl.window.small_journeys import (
    FITTED,
    HOUR,
    JOURNEY,
    SPEC,
    log_of,
    offline,
    online,
    same_inputs,
    steps_of,
    stored,
    touchpoints,
)


def test_tokens_pair_the_previous_touchpoint_with_the_current_context():
    seen = [
        {**touchpoints(1)[0], "channel": "search", "click": 1, "hour": 8.0},
        {**touchpoints(1)[0], "channel": "social", "cost": 2.0, "hour": 9.0, "device": "desktop"},
        {**touchpoints(1)[0], "hour": 10.0, "device": "mobile"},
    ]
    rows = log_of([({"age": "18-24", "tenure": 1.0}, seen)])
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
    slots = Encoder.fit(window, SPEC).slots
    encoder = Encoder(SPEC.channels, 3, Gain.of_spec("click"), 0.5, -1.0, 1.0, slots, SPEC.segment)
    x, length = encoder.encode(window)
    assert length.tolist() == [3]
    hour = (np.array([8.0, 9.0, 10.0]) - 9.0) / np.std([8.0, 9.0, 10.0])
    # The two costs are 1 and 2. The encoder divides by the tenth percentile of all costs, 1.1.
    cost = np.arcsinh(np.array([1.0, 2.0]) / 1.1)
    cost = (cost - cost.mean()) / cost.std()
    angle = [row["timestamp"] % (24 * HOUR) / HOUR * (2 * np.pi / 24) for row in rows]
    clock = np.stack([np.sin(angle), np.cos(angle)], axis=1).tolist()
    # Columns: search, social, start, reward, click, cost, clock (2), pause, hour, three devices, two ages, tenure.
    expected = [
        [0, 0, 1, 0.0, 0, 0, *clock[0], 0, hour[0], 0, 1, 0, 1, 0, 0],
        [1, 0, 0, 0.75, 1, cost[0], *clock[1], 0, hour[1], 1, 0, 0, 1, 0, 0],  # The reward is (1 - 0.5 * 1 + 1) / 2.
        [0, 1, 0, 0.0, -1, cost[1], *clock[2], 0, hour[2], 0, 1, 0, 1, 0, 0],  # The reward is (0 - 0.5 * 2 + 1) / 2.
    ]
    assert x[0].tolist() == np.array(expected, dtype=np.float32).tolist()
    assert encoder.segment_slice() == (13, 15)


def test_the_pause_of_a_token_precedes_its_own_touchpoint():
    rows = log_of([(JOURNEY[0], [*touchpoints(2), *touchpoints(3, pause=2 * HOUR)])])
    batch = offline(rows)
    assert [batch.time["recency_hours"][batch.row_N == i].tolist()[1:] for i in range(3)] == [[], [1.0], [1.0, 2.0]]
    # The first pause begins at the oldest touchpoint, although that touchpoint is no longer in the window.
    assert batch.time["recency_hours"][batch.row_N == 4].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(batch.time["recency_hours"][batch.prev_channel_N == len(SPEC.channels)]).all()
    hours = [row["timestamp"] % (24 * HOUR) / HOUR for row in rows]
    assert batch.time["hour_of_day"][batch.row_N == 4].tolist() == hours[2:]


HISTORY = (*history_columns(SPEC), "hist_timestamp")


@pytest.mark.parametrize("history", [{}, dict.fromkeys(HISTORY), {name: [] for name in HISTORY}])
def test_an_unknown_user_is_an_empty_history(history):
    instance = instance_from_history(history, {"hour": 1.0, "device": "mobile"}, {}, SPEC, HOUR)
    assert instance["prev_channel"] == [None] and instance["prev_cost"] == [0.0]
    assert instance["static"] == {"age": None, "tenure": None}
    batch = WindowBatch.from_instances([instance], SPEC)
    x, length = FITTED.encode(batch)
    start, stop = FITTED.segment_slice()
    assert length.tolist() == [1]
    assert x[0, 0, start:stop].tolist() == [0.0, 0.0, 1.0]  # the unknown segment


def test_empty_text_is_null_on_both_ways():
    rows = log_of([({"age": "", "tenure": None}, touchpoints(2, device=""))])
    nulls = log_of([({"age": None, "tenure": None}, touchpoints(2, device=None))])
    history = {**stored(nulls, nulls[1]), "hist_device": [""]}
    instance = instance_from_history(history, rows[1], rows[1], SPEC, rows[1]["timestamp"])
    assert instance["context"]["device"] == [None, None] and instance["static"]["age"] is None
    raw = {**instance, "context": {**instance["context"], "device": ["", ""]}, "static": {"age": "", "tenure": None}}
    for batch in (offline(rows), online(rows), offline(nulls)):
        assert same_inputs(batch, online(nulls))
    assert same_inputs(WindowBatch.from_instances([raw], SPEC), WindowBatch.from_instances([instance], SPEC))


def test_all_arrow_types_and_chunks_give_equal_windows():
    rows = log_of([JOURNEY, ({"age": None, "tenure": None}, touchpoints(5, device=None, late=HOUR))])
    wanted, plain = offline(rows, targets=True), steps_of(rows)
    coded = large = nanos = plain
    for i, name in enumerate(plain.column_names):
        if plain[name].type == pa.string():
            coded = coded.set_column(i, name, plain[name].dictionary_encode())
            large = large.set_column(i, name, plain[name].cast(pa.large_string()))
        elif pa.types.is_timestamp(plain[name].type):
            nanos = nanos.set_column(i, name, plain[name].cast(pa.timestamp("ns")))
    chunks = pa.concat_tables([coded.slice(0, 4), coded.slice(4)])  # a chunk ends within a user
    separate = pa.concat_tables([steps_of(rows[:3]), steps_of(rows[3:])])
    for variant in (coded, large, nanos, chunks, separate):
        batch = WindowBatch.from_steps(variant, None, SPEC, targets=True)
        assert same_inputs(batch, wanted)
        assert (FITTED.targets(batch)["channel_BT"] == FITTED.targets(wanted)["channel_BT"]).all()


def test_rows_select_windows_and_created_timestamp_is_optional():
    rows = log_of([JOURNEY, (JOURNEY[0], touchpoints(5))])
    steps = steps_of(rows).drop_columns(["created_timestamp"])
    whole = FITTED.encode(WindowBatch.from_steps(steps, None, SPEC))[0]
    some = FITTED.encode(WindowBatch.from_steps(steps, np.array([6, 0, 6]), SPEC))[0]
    assert some.tobytes() == whole[[6, 0, 6]].tobytes()
    assert len(WindowBatch.from_steps(steps, np.array([], dtype=np.int64), SPEC, targets=True)) == 0
    for row in (-1, 8):
        with raises(WindowError, messages.NO_SUCH_STEP, steps=8):
            WindowBatch.from_steps(steps, np.array([row]), SPEC)


# ---- invalid input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prev_channel": ["radio"]}, r"instance 1: unknown channel 'radio'"),
        ({"prev_channel": [None, None]}, r"instance 1: unknown channel None"),
        ({"prev_channel": []}, r"instance 1: 0 tokens; a window has 1 to 3"),
        ({"prev_channel": [None] * 4}, r"instance 1: 4 tokens; a window has 1 to 3"),
        ({"prev_channel": [["search"]]}, r"instance 1: expected an object with lists"),
        ({"prev_timestamp": [0]}, r"instance 1: prev_timestamp needs one time for each touchpoint, oldest first"),
        ({"prev_timestamp": []}, r"instance 1: prev_timestamp needs a list of 1 values, got 0"),
        ({"timestamp": None}, r"instance 1: timestamp contains None, expected numbers"),
        ({"timestamp": "noon"}, r"instance 1: timestamp contains 'noon', expected numbers"),
        ({"prev_channel": ["search"]}, r"instance 1: prev_timestamp needs one time for each touchpoint"),
        ({"prev_channel": ["search"], "prev_timestamp": [HOUR + 1]}, r"instance 1: prev_timestamp needs one time"),
        ({"prev_click": [0, 0]}, r"instance 1: prev_click needs a list of 1 values, got 2"),
        ({"prev_cost": [None]}, r"instance 1: prev_cost contains None, expected numbers"),
        ({"prev_cost": [float("inf")]}, r"instance 1: prev_cost contains a number that is not finite"),
        ({"prev_cost": "1"}, r"instance 1: prev_cost needs a list of 1 values, got '1'"),
        ({"context": {"hour": ["8"], "device": ["mobile"]}}, r"instance 1: context.hour contains '8', expected"),
        ({"context": {"hour": [8], "device": [3]}}, r"instance 1: context.device contains 3, expected text"),
        ({"context": {"hour": [8]}}, r"instance 1: device is missing"),
        ({"static": {"age": 30, "tenure": 1}}, r"instance 1: static.age contains 30, expected text"),
        ({"static": None}, r"instance 1: expected an object with lists"),
    ],
)
def test_a_malformed_instance_is_named(change, message):
    good = instance_from_history({}, {"hour": 8.0, "device": "mobile"}, {}, SPEC, HOUR)
    with pytest.raises(WindowError, match=message) as caught:
        WindowBatch.from_instances([good, {**good, **change}], SPEC)
    assert caught.value.index == 1
    with raises(WindowError, messages.NO_INSTANCE, index=0):
        WindowBatch.from_instances(["rubbish"], SPEC)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (1, {"channel": "radio"}, r"channel: unknown channel 'radio'; known: search, social"),
        (1, {"channel": None}, r"channel: a null channel; known"),
        (1, {"cost": None}, r"cost: 1 values are null or not finite"),
        (2, {"timestamp": 1_700_000_000_000_000 + 2 * HOUR}, r"row 2: not later than the row before it; steps must be"),
        (2, {"user_id": "u2"}, r"row 3: its user has rows further up; steps must be sorted"),
        (2, {"user_id": None}, r"user_id is null"),
        (2, {"timestamp": None}, r"row 2: timestamp is null"),
    ],
)
def test_a_malformed_log_is_refused(row, change, message):
    rows = log_of([JOURNEY, JOURNEY])
    rows[3]["user_id"] = "u0" if "u2" in change.values() else "u1"
    rows[row] |= change
    with pytest.raises(WindowError, match=message) as caught:
        WindowBatch.from_steps(steps_of(rows), None, SPEC)
    if "row" in message.split(":")[0]:
        assert f"row {caught.value.index}:" in str(caught.value)


def test_wrong_columns_and_types_are_refused():
    good = steps_of(log_of([JOURNEY]))
    with raises(WindowError, messages.LACKS_COLUMNS, columns=["cost", "tenure"]):
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
    rows = log_of([JOURNEY])
    now, history = rows[2], stored(rows[:2], rows[2])

    def build(context=now, **change):
        return instance_from_history({**history, **change}, context, {}, SPEC, now["timestamp"])

    with raises(WindowError, messages.HISTORY_LENGTH, column="hist_cost", length=1, channels=2):
        build(hist_cost=[1.0])
    with raises(WindowError, messages.HISTORY_LENGTH, column="hist_timestamp", length=0, channels=2):
        build(hist_timestamp=None)
    for times in ([2.0, 1.0], [1.0, float("nan")], ["1", "2"], [1.0, None]):
        with raises(WindowError, messages.HISTORY_ORDER):
            build(hist_timestamp=times)
    strict = DatasetSpec.load("simulator")
    with raises(WindowError, messages.NO_FIELD, where="context", field="device"):
        instance_from_history({}, {"hour": 1.0, "placement": "feed"}, {}, strict, HOUR)
    numpy = {name: np.array(values, dtype=object) for name, values in history.items()}
    assert build({"hour": np.float64("nan")}, **numpy)["context"]["hour"] == [0.0, 1.0, None]


CLICKS = {"name": "clicks", "kind": "numeric", "by_channel": True, "missing": "zero"}
WEATHER = [{"name": "sky", "kind": "categorical"}, {"name": "degrees", "kind": "numeric"}]
STORING = SPEC.replace(
    features=[
        {"view": "user_channel", "fields": [CLICKS]},
        {"view": "weather", "source": "weather.parquet", "key": "campaign_id", "fields": WEATHER},
    ]
)
NAMES = ("clicks_search", "clicks_social", "sky", "degrees")
STORED: list[dict[str, Any]] = [
    {"clicks": [0.0, 1.0], "sky": "rain", "degrees": 3.0},
    {"clicks": None, "sky": None, "degrees": float("nan")},
    {"clicks": [2.0, float("nan")], "sky": "clear", "degrees": 20.0},
    {"clicks": [4.0, 0.0], "sky": "rain", "degrees": -1.0},
]
SEEN = [{**t, **stored_features(s, STORING), "stored": s} for t, s in zip(touchpoints(4), STORED, strict=True)]
ROWS = log_of([(JOURNEY[0], SEEN)])


def test_a_field_becomes_one_column_or_one_per_channel():
    assert tuple(column.name for column in STORING.feature_columns) == NAMES
    assert not {*NAMES} & {*STORING.log_columns}, "the log does not contain them"
    spaced = STORING.replace(channels=("search", "short video"))
    assert [column.name for column in spaced.feature_columns][:2] == ["clicks_search", "clicks_short_video"]


def test_missing_values_follow_the_description_and_lists_have_all_channels():
    assert stored_features({}, STORING) == dict(zip(NAMES, [0.0, 0.0, None, None], strict=True))
    assert stored_features(STORED[2], STORING) == dict(zip(NAMES, [2.0, 0.0, "clear", 20.0], strict=True))
    assert stored_features({"sky": ""}, STORING)["sky"] is None
    with raises(WindowError, messages.PER_CHANNEL, field="clicks", values=3, channels=2):
        stored_features({"clicks": [1.0, 2.0, 3.0]}, STORING)


def test_stored_features_are_equal_offline_and_online_at_the_last_token():
    encoder = Encoder.fit(offline(ROWS, True, STORING), STORING)
    x_BTD, length_B = encoder.encode(offline(ROWS, spec=STORING))
    np.testing.assert_array_equal(x_BTD, encoder.encode(online(ROWS, spec=STORING))[0])
    # Two channels, three values of the sky (with "unknown"), and the degrees.
    assert encoder.stored == 2 + 3 + 1
    numbers_BT = x_BTD[..., -1]
    assert numbers_BT[0, 0] != 0 and numbers_BT[3, 2] != 0, "the decision's own token has `degrees`"
    assert length_B.tolist() == [1, 2, 3, 3] and not numbers_BT[3, :2].any(), "earlier tokens have no stored features"
    # In training, a token has its own touchpoint's features.
    batch = offline(ROWS, True, STORING).take(np.array([3]))
    assert batch.features["clicks_search"].tolist() == [0.0, 2.0, 4.0]
    sky = batch.features["sky"]
    assert [sky.values[code] if code >= 0 else None for code in sky.codes] == [None, "clear", "rain"]


def test_models_without_sequences_read_stored_features():
    batch = offline(ROWS, True, STORING)
    summary = Summary.of(batch, Encoder.fit(batch, STORING))
    values = dict(zip(summary.names, summary.values_BF.T, strict=True))
    assert values["clicks_search"].tolist() == [0.0, 0.0, 2.0, 4.0]
    assert np.isnan(values["degrees"]).tolist() == [False, True, False, False]
    assert "sky" in summary.categorical


def test_a_network_reads_only_the_decisions_own_stored_features():
    torch = pytest.importorskip("torch")
    from mtorl.network.model import MTORL, MTORLConfig
    from tests.mtorl.network.simulated_journeys import every_step

    batch = offline(ROWS, True, STORING)
    encoder = Encoder.fit(batch, STORING)
    sizes = {"inputs": encoder.dim, "channels": 2, "window": 3, "outcomes": 2, "hidden": 8, "heads": 2}
    network = MTORL(MTORLConfig(**sizes, stored=encoder.stored)).eval()
    for_training, length_B = encoder.encode(batch)
    served, _ = encoder.encode(offline(ROWS, spec=STORING))
    assert (for_training != served).any()
    length = torch.from_numpy(length_B)
    with torch.inference_mode():
        answers = [network(torch.from_numpy(x), length) for x in (for_training, served)]
        torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
        logits_BTC = every_step(network, torch.from_numpy(for_training))[0]
        torch.testing.assert_close(logits_BTC[torch.arange(4), length - 1], answers[0][0])
        changed = served.copy()
        changed[3, 2, -1] += 1.0
        assert not torch.equal(network(torch.from_numpy(changed), length)[0][3], answers[1][0][3])
