"""Tests that the encoder learns only from training data, and leaves out late outcomes."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.log.columns import WindowError
from mtorl.log.dataset import Column, RewardSpec
from mtorl.window.encoder import Encoder, labels
from mtorl.window.window import WindowBatch
from tests.mtorl.window.small_journeys import FITTED, JOURNEY, SPEC, log_of, offline, online, steps_of, touchpoints


def test_a_rare_category_is_encoded_as_unknown():
    users = [({"age": "65+" if i % 100 == 0 else "18-24", "tenure": 1.0}, touchpoints(2)) for i in range(5000)]
    users += [({"age": "7", "tenure": 1.0}, touchpoints(4))]
    encoder = Encoder.fit(offline(log_of(users)), SPEC)
    age = next(slot for slot in encoder.slots if slot.name == "age")
    assert age.values == ("18-24", "65+") and age.width == 3
    few = Encoder.fit(offline(log_of(users[-3:])), SPEC)
    assert next(slot for slot in few.slots if slot.name == "age").values == ("18-24", "7")


def test_late_outcomes_are_no_inputs():
    late = SPEC.replace(immediate=("cost",), reward=SPEC.reward.replace(gain="conversion"))
    seen = touchpoints(3)
    other = [{**one, "conversion": 1 - one["conversion"], "click": 1, "revenue": 9.0} for one in seen]
    encoder = Encoder.fit(offline(log_of([(JOURNEY[0], seen)]), targets=True), late)
    assert [slot.name for slot in encoder.slots if slot.source == "outcome"] == ["cost"]
    one, two = (encoder.encode(offline(log_of([(JOURNEY[0], touchpoints)])))[0] for touchpoints in (seen, other))
    assert one.tobytes() == two.tobytes()
    dearer = [{**touchpoint, "cost": 3.0} for touchpoint in seen]
    assert one.tobytes() != encoder.encode(offline(log_of([(JOURNEY[0], dearer)])))[0].tobytes()


def test_the_label_is_the_weighted_sum_and_immediate_outcomes_are_inputs():
    """The gain is 0.5 click + profit, and profit may be negative."""
    profit = Column(name="profit", kind="numeric")
    reward = RewardSpec.model_validate({"gain": {"click": 0.5, "profit": 1}, "cost_weight": 0.5})
    spec = SPEC.replace(outcomes=(profit,), reward=reward)
    seen = [{**t, "click": k, "profit": p} for t, k, p in zip(touchpoints(3), (1, 0, 1), (-2.0, 4.0, 1.0), strict=True)]
    rows = log_of([(JOURNEY[0], seen)])
    for immediate, parts in ((("click", "cost"), (1, 0)), (("cost", "profit"), (0, 1)), (("cost",), (0, 0))):
        told = spec.replace(immediate=immediate)
        batch, served = offline(rows, True, told), online(rows, spec=told)
        encoder = Encoder.fit(batch, told)
        assert (encoder.reward_min, encoder.reward_max) == (0.5 - 2 - 0.5, 4 - 0.5)
        for each in (encoder, FITTED):
            assert Encoder.from_dict(json.loads(json.dumps(each.to_dict()))) == each
        x_BTD, _ = encoder.encode(batch)
        assert x_BTD.tobytes() == encoder.encode(served)[0].tobytes()
        assert encoder.unreward(labels(batch, encoder).reward_B, [1.0] * 3) == pytest.approx([-1.5, 4.0, 1.5])
        before = [0.5 * parts[0] * 1 + parts[1] * -2.0, parts[1] * 4.0]
        assert encoder.previous_gain(batch)[batch.row_N == 2][1:].tolist() == before
        assert x_BTD[2, 1:, 3].tolist() == encoder.reward(before, 1.0).astype(np.float32).tolist()


def test_unseen_categories_are_unknown_and_outliers_are_clipped():
    encoder = Encoder.fit(online(log_of([JOURNEY])), SPEC)
    row = {**log_of([JOURNEY])[0], "device": "fridge", "hour": 1e9}
    x = encoder.encode(online([row]))[0][0, 0]
    assert x[9] == 5.0
    assert x[10:12].tolist() == [0.0, 1.0]  # mobile, unknown
    nothing = encoder.encode(online([{**row, "device": None, "hour": None}]))[0][0, 0]
    assert nothing[9] == 0.0 and nothing[10:12].tolist() == [0.0, 1.0]


def test_targets_are_the_outcomes_of_each_token():
    changes = zip(touchpoints(4), ["search", "social"] * 2, [0, 1, 1, 0], strict=True)
    seen = [{**t, "channel": c, "click": k} for t, c, k in changes]
    batch = offline(log_of([(JOURNEY[0], seen)]), targets=True)
    encoder = Encoder.fit(batch, SPEC)
    assert (encoder.reward_min, encoder.reward_max) == (-0.5, 0.5)
    targets = encoder.targets(batch)
    assert targets["channel_BT"].tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 0], [1, 0, 1]]
    assert targets["reward_BT"].tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert targets["cost_BT"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert (targets["clone_BT"] == (targets["channel_BT"] >= 0)).all()
    log = steps_of(log_of([(JOURNEY[0], seen)])).append_column("collected", pa.array([False, True, None, True]))
    mixed = WindowBatch.from_steps(log, None, SPEC, targets=True)
    cloned = encoder.targets(mixed.take(np.array([2, 3])))["clone_BT"]
    assert cloned.tolist() == [[True, False, True], [False, True, False]]
    assert labels(mixed, encoder).collected_B.tolist() == [False, True, False, True]
    with pytest.raises(WindowError, match="without targets"):
        encoder.targets(online(log_of([JOURNEY])))


@settings(max_examples=100)
@given(st.floats(0, 1), st.floats(0, 20), st.floats(-5, 5), st.floats(0.01, 50))
def test_unreward_undoes_reward(gain, cost, low, span):
    encoder = Encoder(SPEC.channels, 3, "click", 0.05, low, low + span, (), None)
    r = encoder.reward(gain, cost)
    assert 0 <= r <= 1
    if low <= gain - 0.05 * cost <= low + span:
        assert encoder.unreward(r, cost) == pytest.approx(gain, abs=1e-9)
