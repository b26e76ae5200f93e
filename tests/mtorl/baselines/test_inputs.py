"""Tests that the baselines' inputs equal values computed by hand."""

import numpy as np
import pyarrow as pa
import torch

from mtorl.baselines.decision_transformer import Tiles, returns, returns_to_go
from mtorl.baselines.inputs import HALF_LIVES, LATEST, States, Summary
from mtorl.baselines.learning import Transitions, ends
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch
from tests.mtorl.baselines.tiny_log import SPEC, journey, steps, windows


def test_a_summary_describes_its_window():
    batch = windows(journey("u", "SosO", hour=9.0, age=30.0))
    encoder = Encoder.fit(batch, SPEC)
    summary = Summary.of(batch, encoder)
    of = dict(zip(summary.names, summary.values_BF.T, strict=True))
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
    assert {"device", "channel_1"} <= set(summary.categorical) <= set(summary.names)


def test_a_window_that_begins_midway_has_no_start():
    batch = windows(journey("u", "soosos"))
    summary = Summary.of(batch, Encoder.fit(batch, SPEC))
    assert summary.values_BF[:, summary.names.index("touchpoints")].tolist() == [0, 1, 2, 3, 4, 4]


def test_neither_the_present_outcome_nor_a_late_one_is_seen():
    seen = [*journey("a", "SosO"), *journey("b", "so")]
    other = [{**row, "conversion": 1, "revenue": 9.0} for row in seen]
    other[3] = {**other[3], "channel": "search", "click": 0, "cost": 77.0}  # the last touchpoint of user a
    batch = windows(seen)
    encoder = Encoder.fit(batch, SPEC)
    one, two = (Summary.of(windows(rows), encoder).values_BF for rows in (seen, other))
    np.testing.assert_array_equal(one, two)
    late = Encoder.fit(batch, SPEC.replace(immediate=("cost",)))
    assert not [name for name in Summary.of(batch, late).names if name.startswith("click")]


def test_a_state_is_standardised_with_flags_for_missing_values():
    train = windows([*journey("a", "sos", hour=7.0, age=0.1), *journey("b", "s", hour=9.0, device="phone")])
    encoder = Encoder.fit(train, SPEC)
    states = States.fit(train, encoder)
    state_BS, values_BF = states.of(train), Summary.of(train, encoder).values_BF
    names = Summary.of(train, encoder).names
    amounts_BF = state_BS[:, : len(states.amounts)]
    at = [names[place] for place in states.amounts].index
    np.testing.assert_allclose(amounts_BF[:, at("hour")], np.array([-1, -1, -1, 3]) / np.sqrt(3))
    # A journey's start has no past, so the mean cost is unknown.
    np.testing.assert_array_equal(amounts_BF[:, at("cost_mean")], [0, -1, 1, 0])
    np.testing.assert_allclose(amounts_BF[:, at("age")], np.zeros(4), atol=1e-9)
    assert np.isfinite(state_BS).all() and (abs(amounts_BF) <= 5).all()
    flags_BF = state_BS[:, len(states.amounts) : len(states.amounts) + len(states.flags)]
    np.testing.assert_array_equal(flags_BF, np.isnan(values_BF[:, states.flags]))
    assert len({flag.tobytes() for flag in flags_BF.T}) == len(states.flags), "a flag occurs twice"
    patterns = {flag.tobytes() for flag in np.isnan(values_BF[:, states.amounts]).T if flag.any()}
    assert len(patterns) == len(states.flags), "a pattern of missing values has no flag"
    devices_B2 = state_BS[:, -2:]
    np.testing.assert_array_equal(devices_B2, [[0, 1]] * 3 + [[1, 0]])
    unseen = windows(journey("c", "s", device="watch", hour=1e9))
    state_S = states.of(unseen)[0]
    assert state_S[at("hour")] == 5 and (state_S[-2:] == 0).all()


def test_a_journey_ends_with_its_user_or_a_long_pause():
    rows = [*journey("a", "sOs"), *journey("b", "o"), *journey("c", "so")]
    touchpoints = steps(rows)
    times = touchpoints["timestamp"].cast(pa.int64()).to_pylist()
    times[5] += 40 * 86_400_000_000  # user c pauses for 40 days
    place = touchpoints.column_names.index("timestamp")
    touchpoints = touchpoints.set_column(place, "timestamp", pa.array(times, pa.timestamp("us", "UTC")))
    batch = WindowBatch.from_steps(touchpoints, None, SPEC, targets=True)
    encoder = Encoder.fit(batch, SPEC)
    np.testing.assert_array_equal(ends(batch, encoder), [False, False, True, True, True, True])
    some = WindowBatch.from_steps(touchpoints, np.array([0, 2]), SPEC, targets=True)
    np.testing.assert_array_equal(ends(some, encoder), [True, True])
    data = Transitions.of(batch, encoder, States.fit(batch, encoder))
    step = data.at(torch.tensor([1, 2]))
    assert step.channel_B.tolist() == [1, 0] and step.reward_B.tolist() == [1, 0] and step.goes_on_B.tolist() == [1, 0]
    assert torch.equal(step.state_BS, data.state_BS[1:3]) and torch.equal(step.next_BS[0], data.state_BS[2])


def test_returns_reach_to_the_end_of_the_journey():
    ends_B = np.array([False, False, True, True, False, True])
    np.testing.assert_allclose(returns(np.array([1, 2, 4, 8, 16, 32.0]), ends_B), [7, 6, 4, 8, 48, 32])


def test_tiles_contain_each_touchpoint_once_with_its_return():
    batch = windows([*journey("a", "SoSoso"), *journey("b", "oS")])
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    assert data.channel_BT.tolist() == [[0, 1, -1, -1], [0, 1, 0, 1], [1, 0, -1, -1]]
    real_BT = data.channel_BT >= 0
    assert data.return_BT[real_BT].tolist() == [2, 1, 1, 0, 0, 0, 1, 1] == data.return_N.tolist()


def test_the_return_to_go_is_the_target_plus_later_rewards():
    batch = windows(journey("u", "SoSo"))
    asked_BT = returns_to_go(batch, Encoder.fit(batch, SPEC), target=3.0)
    assert asked_BT[3].tolist() == [5, 4, 4, 3] and asked_BT[0, 0] == 3
