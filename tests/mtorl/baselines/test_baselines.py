"""Baselines that read windows: what they see of them, and that they learn what there is to learn."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from threadpoolctl import threadpool_limits  # a part of scikit-learn

from mtorl.baselines import (
    bcq,
    behaviour_cloning,
    cql,
    decision_transformer,
    iql,
    learning,
    lightgbm,
    logistic,
    markov,
    online_dt,
    repeat_last,
)
from mtorl.baselines.inputs.states import States, mean_cost
from mtorl.baselines.inputs.summary import HALF_LIVES, LATEST, Summary
from mtorl.baselines.inputs.trajectories import Tiles, asked, returns
from mtorl.baselines.inputs.transitions import Step, Transitions, ends
from mtorl.evaluation.head_metrics import evaluate
from mtorl.log.dataset import DatasetSpec
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.window import WindowBatch, WindowError

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
COUNTING = [repeat_last, markov]
WITHOUT_REWARD = [behaviour_cloning, decision_transformer, online_dt]
BASELINES = [*COUNTING, logistic, lightgbm, cql, iql, bcq, *WITHOUT_REWARD]


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small take twice as long where threads wait for each other."""
    with threadpool_limits(1):
        yield


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
    late = Encoder.fit(batch, SPEC.replace(immediate=("cost",)))
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
    torch_before = torch.get_rng_state()
    fitted = baseline.fit(train, val, encoder, seed=0)
    assert torch.equal(torch_before, torch.get_rng_state()), "nobody else's chance is touched"
    logits_BC, reward_BC, cost_BC = fitted.predict(test)
    for head_BC in (logits_BC, reward_BC, cost_BC):
        assert head_BC.shape == (len(test), 2) and np.isfinite(head_BC).all()
    assert ((reward_BC >= 0) & (reward_BC <= 1)).all() and (cost_BC >= 0).all()
    happened = labels(test, encoder)
    found = evaluate(logits_BC, reward_BC, happened.channel_B, happened.reward_B, np.arange(len(test)), 0, resamples=2)
    assert found["action_auc"] > 0.8
    # A Decision Transformer does not do what the log does, but what earned most.
    assert found["action_logloss"] < 0.36 or baseline in (decision_transformer, online_dt)
    if baseline in WITHOUT_REWARD:
        np.testing.assert_allclose(reward_BC, labels(train, encoder).reward_B.mean())
    else:
        assert found["reward_auc"] > (0.6 if baseline in COUNTING else 0.78)
        assert found["reward_logloss"] < 0.57, "that of the mean is .575"
    torch.rand(1)  # what others draw changes nothing
    again = baseline.fit(train, val, encoder, seed=0).predict(test)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(fitted.predict(test), again, strict=True))


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_channel_that_training_never_used_has_an_answer(baseline: ModuleType):
    spec = SPEC.replace(channels=("search", "social", "mail"))
    train, val = (windows(log(users=60, seed=seed), spec) for seed in (1, 2))
    used = windows(
        [*journey("u", "so"), {"user_id": "v", "channel": "mail"}, {"user_id": "v", "channel": "mail"}], spec
    )
    fitted = baseline.fit(train, val, Encoder.fit(train, spec), seed=0)
    for head_BC in fitted.predict(used):
        assert head_BC.shape == (4, 3) and np.isfinite(head_BC).all()


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


def test_repeat_last_counts_how_often_it_holds():
    train = windows([*journey("a", "ssS"), *journey("b", "oSs"), *journey("c", "o")])
    encoder = Encoder.fit(train, SPEC)
    logits_BC, reward_BC, cost_BC = repeat_last.fit(train, train, encoder, seed=0).predict(train)
    stay = (3 + 1) / (4 + 2)  # search after search three times, search after social once
    start_C = np.array([5 + 1, 2 + 1]) / (7 + 2)
    expected = [start_C, [stay, 1 - stay], [stay, 1 - stay], start_C, [1 - stay, stay], [stay, 1 - stay], start_C]
    np.testing.assert_allclose(np.exp(logits_BC), expected)
    mean = 2 / 7  # of the clicks
    after_start, after_hit, after_miss = (0 + 20 * mean) / 23, (0 + 20 * mean) / 21, (2 + 20 * mean) / 23
    outcomes = [after_start, after_miss, after_miss, after_start, after_miss, after_hit, after_start]
    np.testing.assert_allclose(reward_BC, np.repeat(np.array(outcomes)[:, None], 2, axis=1))
    np.testing.assert_allclose(cost_BC, [mean_cost(labels(train, encoder), 2)] * 7)


def test_repeat_last_does_not_see_a_late_gain():
    train = windows(log(users=20))
    late = Encoder.fit(train, SPEC.replace(immediate=("cost",)))
    rewards = repeat_last.fit(train, train, late, seed=0).predict(windows(journey("u", "sSs")))[1]
    assert rewards[1, 0] == rewards[2, 0]


def test_a_rare_channel_costs_what_all_do():
    train = windows([*journey("a", "s" * 40), {"user_id": "b", "channel": "social", "cost": 1000.0}])
    found = labels(train, Encoder.fit(train, SPEC))
    np.testing.assert_allclose(
        mean_cost(found, 2), [(820 + 20 * 1820 / 41) / (40 + 20), (1000 + 20 * 1820 / 41) / (1 + 20)]
    )


def test_linear_models_know_what_each_channel_costs_and_choose_their_strength(monkeypatch: pytest.MonkeyPatch):
    train, val = (windows(log(seed=seed)) for seed in (1, 2))
    encoder = Encoder.fit(train, SPEC)
    test = windows(journey("u", "ss"))
    _, reward_BC, cost_BC = logistic.fit(train, val, encoder, seed=0).predict(test)
    assert cost_BC == pytest.approx(np.array([[1.0, 5.0]] * 2), rel=0.1)
    assert reward_BC[1, 0] > reward_BC[1, 1] + 0.1 and reward_BC[1, 0] > reward_BC[0, 0] + 0.1
    monkeypatch.setattr(logistic, "STRENGTHS", (100.0, 1e-4))
    assert logistic.fit(train, val, encoder, seed=0).predict(test)[2] == pytest.approx(cost_BC, rel=0.1)
    for price in (0.0, 2.0):
        same = windows([{**row, "cost": price} for row in log(seed=1)])
        assert (logistic.fit(same, val, encoder, seed=0).predict(test)[2] == price).all()


def test_a_share_is_a_reward_between_success_and_failure():
    """The reward is revenue: .25 of the most on search, .75 on social."""
    spec = SPEC.replace(reward=SPEC.reward.replace(gain="revenue"))
    earned = {"search": 1.0, "social": 3.0}
    rows = [{**row, "revenue": earned[row["channel"]]} for row in log(users=100)]
    rows += [{"user_id": "z", "channel": "search", "revenue": value} for value in (0.0, 4.0)]
    train = windows(rows, spec)
    reward_BC = logistic.fit(train, train, Encoder.fit(train, spec), seed=0).predict(train)[1]
    assert reward_BC.mean(0) == pytest.approx([0.25, 0.75], abs=0.02)


# ---- states, transitions, trajectories


def test_a_state_is_standardised_and_knows_what_is_unknown():
    train = windows([*journey("a", "sos", hour=7.0, age=0.1), *journey("b", "s", hour=9.0, device="phone")])
    encoder = Encoder.fit(train, SPEC)
    states = States.fit(train, encoder)
    state_BS, values_BF = states.of(train), Summary.of(train, encoder).values_BF
    names = Summary.of(train, encoder).names
    amounts_BF = state_BS[:, : len(states.amounts)]
    at = [names[place] for place in states.amounts].index
    np.testing.assert_allclose(amounts_BF[:, at("hour")], np.array([-1, -1, -1, 3]) / np.sqrt(3))
    np.testing.assert_array_equal(amounts_BF[:, at("cost_mean")], [0, -1, 1, 0])  # unknown at the start
    np.testing.assert_allclose(amounts_BF[:, at("age")], np.zeros(4), atol=1e-9)  # a constant but for rounding
    assert np.isfinite(state_BS).all() and (abs(amounts_BF) <= 5).all()
    flags_BF = state_BS[:, len(states.amounts) : len(states.amounts) + len(states.flags)]
    np.testing.assert_array_equal(flags_BF, np.isnan(values_BF[:, states.flags]))
    assert len({flag.tobytes() for flag in flags_BF.T}) == len(states.flags), "no flag twice"
    patterns = {flag.tobytes() for flag in np.isnan(values_BF[:, states.amounts]).T if flag.any()}
    assert len(patterns) == len(states.flags), "and none forgotten"
    devices_B2 = state_BS[:, -2:]  # phone and tv: the last of the context columns' codes
    np.testing.assert_array_equal(devices_B2, [[0, 1]] * 3 + [[1, 0]])
    unseen = windows(journey("c", "s", device="watch", hour=1e9))
    state_S = states.of(unseen)[0]
    assert state_S[at("hour")] == 5 and (state_S[-2:] == 0).all()


def test_a_journey_ends_with_its_user_or_a_long_pause():
    rows = [*journey("a", "sOs"), *journey("b", "o"), *journey("c", "so")]
    touches = steps(rows)
    times = touches["timestamp"].cast(pa.int64()).to_pylist()
    times[5] += 40 * 86_400_000_000  # c comes back after 40 days
    place = touches.column_names.index("timestamp")
    touches = touches.set_column(place, "timestamp", pa.array(times, pa.timestamp("us", "UTC")))
    batch = WindowBatch.from_steps(touches, None, SPEC, targets=True)
    encoder = Encoder.fit(batch, SPEC)
    np.testing.assert_array_equal(ends(batch, encoder), [False, False, True, True, True, True])
    some = WindowBatch.from_steps(touches, np.array([0, 2]), SPEC, targets=True)
    np.testing.assert_array_equal(ends(some, encoder), [True, True])
    data = Transitions.of(batch, encoder, States.fit(batch, encoder))
    step = data.at(torch.tensor([1, 2]))
    assert step.channel_B.tolist() == [1, 0] and step.reward_B.tolist() == [1, 0] and step.goes_on_B.tolist() == [1, 0]
    assert torch.equal(step.state_BS, data.state_BS[1:3]) and torch.equal(step.next_BS[0], data.state_BS[2])


def test_returns_reach_to_the_end_of_the_journey():
    ends_B = np.array([False, False, True, True, False, True])
    np.testing.assert_allclose(returns(np.array([1, 2, 4, 8, 16, 32.0]), ends_B), [7, 6, 4, 8, 48, 32])


def test_tiles_show_each_touchpoint_once_with_its_return():
    batch = windows([*journey("a", "SoSoso"), *journey("b", "oS")])
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    assert data.channel_BT.tolist() == [[0, 1, -1, -1], [0, 1, 0, 1], [1, 0, -1, -1]]
    real_BT = data.channel_BT >= 0
    assert data.return_BT[real_BT].tolist() == [2, 1, 1, 0, 0, 0, 1, 1] == data.return_N.tolist()


def test_what_is_asked_grows_backwards_by_what_was_earned():
    batch = windows(journey("u", "SoSo"))
    asked_BT = asked(batch, Encoder.fit(batch, SPEC), target=3.0)
    assert asked_BT[3].tolist() == [5, 4, 4, 3] and asked_BT[0, 0] == 3


# ---- from values to a policy and to rewards


def test_the_temperature_is_that_of_the_log():
    random = np.random.default_rng(0)
    value_BC = random.normal(size=(20_000, 3)) * 3
    share_BC = np.exp(value_BC / 2)
    share_BC /= share_BC.sum(1, keepdims=True)
    channel_B = (random.random((len(share_BC), 1)) > share_BC.cumsum(1)).sum(1)
    assert learning.temperature(value_BC, channel_B) == pytest.approx(2, rel=0.05)
    assert learning.temperature(-value_BC, channel_B) > 500, "values that mislead are ignored"


def test_rewards_follow_values_and_never_turn_them_round():
    random = np.random.default_rng(0)
    value_B = random.normal(5, 3, size=20_000)
    reward_B = (random.random(20_000) < 1 / (1 + np.exp(3 - 0.5 * value_B))).astype(float)
    found = learning.RewardOfValue.fit(value_B, reward_B)
    assert (found.slope, found.offset) == pytest.approx((0.5, -3.0), rel=0.1)
    turned = learning.RewardOfValue.fit(-value_B, reward_B)
    assert turned.slope == 0 and turned(value_B[:1]) == pytest.approx(reward_B.mean(), abs=1e-3)


def test_training_keeps_the_best_epoch_and_stops():
    network = torch.nn.Linear(1, 1, bias=False)
    seen = []

    def validate() -> float:
        seen.append(network.weight.item())
        return abs(len(seen) - 2)

    with learning.seeded(0):
        learning.learn(network, 8, lambda rows: network(torch.ones(1)), epochs=50, lr=0.1, batch=4, validate=validate)
    assert len(seen) == 2 + learning.PATIENCE and network.weight.item() == seen[1] != seen[-1]


@pytest.mark.parametrize("baseline", [behaviour_cloning, iql, decision_transformer, online_dt])
def test_validation_users_say_when_to_stop(baseline: ModuleType):
    train, other = windows(log()), windows([row for i in range(50) for row in journey(f"u{i}", "soso")])
    encoder = Encoder.fit(train, SPEC)
    one, two = (baseline.fit(train, val, encoder, seed=0).predict(train)[0] for val in (train, other))
    assert abs(one).mean() > abs(two).mean(), "who does something else stops it earlier"


# ---- what each method is about

# Two states, three channels: Q(0, .) = (1, 5, 2), Q(1, .) = (4, 3, 0). From state 0 on to 1; from state 1 nowhere.
STATE = torch.eye(2)
STEP = Step(STATE, torch.tensor([0, 1]), torch.tensor([0.5, 1.0]), STATE.flip(0), torch.tensor([1.0, 0.0]))


def table(rows: list[list[float]]) -> torch.nn.Module:
    network = torch.nn.Linear(2, len(rows[0]), bias=False)
    network.weight.data = torch.tensor(rows).T
    return network


Q = [[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]
SLOW = [[9.0, 9.0, 9.0], [0.25, 7.0, 8.0]]  # another Q, the slow copy


@pytest.mark.parametrize("baseline", [cql, iql, bcq])
def test_values_travel_back_along_a_journey(baseline: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Only the third touchpoint of a journey pays."""
    channels = np.random.default_rng(0).choice(list("so"), size=(200, 3))
    train = windows([row for i, (a, b, c) in enumerate(channels) for row in journey(f"u{i}", a + b + c.upper())])
    monkeypatch.setattr(baseline, "EPOCHS", 40)
    monkeypatch.setattr(baseline, "LR", 5e-3)
    monkeypatch.setattr(baseline, "TRACKING", 0.1)
    monkeypatch.setattr(cql, "ALPHA", 0.0)
    fitted = baseline.fit(train, train, Encoder.fit(train, SPEC), seed=0)
    q = fitted.critics.q if baseline is iql else fitted.q
    value_B3 = learning.answer(q, fitted.states.of(train)).max(axis=1).reshape(-1, 3)
    expected = [baseline.GAMMA**2, baseline.GAMMA, 1.0]
    np.testing.assert_allclose(value_B3.mean(axis=0), expected, atol=0.1)


def test_cql_is_double_q_learning_and_a_conservative_term(monkeypatch: pytest.MonkeyPatch):
    # From state 0 to 1, where Q likes channel 0 best, which the slow copy gives .25; from state 1 nowhere.
    gaps = np.array([1 - (0.5 + cql.GAMMA * 0.25), 3 - 1.0])
    term = np.mean([np.log(np.exp(Q[0]).sum()) - 1, np.log(np.exp(Q[1]).sum()) - 3])
    monkeypatch.setattr(cql, "ALPHA", 0.7)
    loss = cql.conservative_loss(table(Q), table(SLOW), STEP)
    assert loss.item() == pytest.approx(0.7 * term + 0.5 * (gaps**2).mean(), rel=1e-5)


def test_the_conservative_term_lowers_what_the_log_does_not_show(monkeypatch: pytest.MonkeyPatch):
    """On a tv search alone is used, on a phone social alone."""
    rows = [{**row, "device": "tv" if row["channel"] == "search" else "phone"} for row in log()]
    train = windows(rows)
    encoder = Encoder.fit(train, SPEC)
    monkeypatch.setattr(cql, "EPOCHS", 30)

    def unseen(alpha: float) -> float:
        monkeypatch.setattr(cql, "ALPHA", alpha)
        fitted = cql.fit(train, train, encoder, seed=0)
        q_BC, logged_B = learning.answer(fitted.q, fitted.states.of(train)), labels(train, encoder).channel_B
        rows_B = np.arange(len(train))
        return float((q_BC[rows_B, 1 - logged_B] - q_BC[rows_B, logged_B]).mean())

    assert unseen(1.0) < unseen(0.0) - 1.0


def test_an_expectile_lies_above_the_mean():
    value_B = torch.tensor([0.0, 0.0, 0.0, 1.0])
    at = torch.linspace(0, 1, 1001)
    best = {
        tau: at[torch.stack([iql.expectile_loss(value_B - v, tau) for v in at]).argmin()].item() for tau in (0.5, 0.9)
    }
    # tau (1 - v) = 3 (1 - tau) v
    assert best == pytest.approx({0.5: 0.25, 0.9: 0.9 / 1.2}, abs=2e-3)


def test_iql_looks_at_logged_actions_alone():
    critics = iql.Critics(2, 3)
    critics.q.one, critics.q.two, critics.v = table(Q), table(SLOW), table([[2.0], [3.0]])
    target = iql.TwinQ(2, 3)
    target.one, target.two = table(SLOW), table([[0.5, 0.0, 0.0], [0.0, 9.0, 0.0]])
    slow = np.array([0.5, 7.0])  # the smaller of two, at the logged action
    y = np.array([0.5 + iql.GAMMA * 3, 1.0])
    gap = slow - np.array([2.0, 3.0])
    expectile = np.mean([(1 - iql.EXPECTILE) * gap[0] ** 2, iql.EXPECTILE * gap[1] ** 2])
    squares = np.mean((np.array([1, 3]) - y) ** 2) + np.mean((np.array([9, 7]) - y) ** 2)
    loss = iql.critics_loss(critics, target, STEP)
    assert loss.item() == pytest.approx(expectile + squares, rel=1e-5)
    torch.autograd.backward(loss)
    # d expectile / d V alone: nothing of Q's loss reaches V
    assert critics.v.weight.grad[0].tolist() == pytest.approx(
        [-(1 - iql.EXPECTILE) * gap[0], -iql.EXPECTILE * gap[1]], rel=1e-5
    )


def test_advantages_lean_the_policy_towards_what_pays(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{i}", "channel": channel, "click": int(channel == "search")}
        for i in range(300)
        for channel in random.choice(SPEC.channels, size=3)
    ]
    train = windows(rows)
    encoder = Encoder.fit(train, SPEC)

    def search(beta: float) -> float:
        monkeypatch.setattr(iql, "BETA", beta)
        logits_BC = iql.fit(train, train, encoder, seed=0).predict(train)[0]
        return float((1 / (1 + np.exp(logits_BC[:, 1] - logits_BC[:, 0]))).mean())

    assert abs(search(0.0) - 0.5) < 0.1 and search(5.0) > 0.75
    critics = iql.Critics(2, 3)
    critics.q.one = critics.q.two = table([[1.0, 0, 0], [0, 99.0, 0]])
    critics.v = table([[2.0], [3.0]])
    monkeypatch.setattr(iql, "BETA", 2.0)
    weights = iql.advantage_weights(critics, Transitions(STATE, STEP.channel_B, STEP.reward_B, STEP.goes_on_B))
    assert weights.tolist() == pytest.approx([np.exp(-2.0), iql.LARGEST])


def test_bcq_looks_ahead_to_allowed_channels_alone():
    # The imitation of state 1 rules out channel 0, Q's favourite; of the others Q likes 1, which the slow copy gives 7.
    imitation = table([[0.0, 0.0, 0.0], [-3.0, 1.0, 1.0]])
    loss = bcq.constrained_loss(table(Q), table(SLOW), imitation, STEP)
    gaps = np.array([1 - (0.5 + bcq.GAMMA * 7), 3 - 1.0])
    assert loss.item() == pytest.approx((abs(gaps) - 0.5).mean(), rel=1e-5)
    odds = torch.log(torch.tensor([[1.0, bcq.TAU * 1.01, bcq.TAU * 0.99]]))
    assert bcq.allowed(odds + 5).tolist() == [[True, True, False]]


def test_bcq_never_picks_a_channel_below_the_threshold(monkeypatch: pytest.MonkeyPatch):
    """Social is used a tenth of the time and pays; search does not."""
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{i}", "channel": channel, "click": int(channel == "social")}
        for i in range(300)
        for channel in random.choice(SPEC.channels, size=4, p=[0.9, 0.1])
    ]
    train = windows(rows)
    encoder = Encoder.fit(train, SPEC)
    strict = bcq.fit(train, train, encoder, seed=0).predict(train)[0]
    assert (strict.argmax(1) == 0).mean() > 0.95
    rare = np.exp(strict[:, 1])[strict.argmax(1) == 0]
    np.testing.assert_allclose(np.quantile(rare, 0.5), bcq.EXPLORATION / 2)
    monkeypatch.setattr(bcq, "TAU", 0.01)
    assert (bcq.fit(train, train, encoder, seed=0).predict(train)[0].argmax(1) == 1).mean() > 0.95


def test_a_decision_transformer_does_what_earns_the_return_that_is_asked_for():
    random = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{i}", "channel": channel, "click": int(channel == "search")}
        for i in range(300)
        for channel in random.choice(SPEC.channels, size=4)
    ]
    train = windows(rows)
    fitted = decision_transformer.fit(train, train, Encoder.fit(train, SPEC), seed=0)
    last = windows(journey("u", "ssSo"))
    greedy, humble = (replace(fitted, target=target).predict(last)[0][3] for target in (1.0, 0.0))
    assert fitted.target >= 2 and greedy.argmax() == 0 and humble.argmax() == 1


def test_a_transformer_sees_no_future():
    batch = windows(log(users=20))
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    network = decision_transformer.Transformer(data, encoder).eval()
    other = replace(data, x_BTD=data.x_BTD.clone(), return_BT=data.return_BT.clone())
    other.x_BTD[:, 2:], other.return_BT[:, 2:] = 1.0, -7.0
    one, two = (network(part.x_BTD, part.return_BT) for part in (data, other))
    assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2:], two[:, 2:])
    logits_NC, channel_N = network.logged(data, torch.tensor([1]))
    assert torch.equal(channel_N, data.channel_BT[1][data.channel_BT[1] >= 0])
    torch.testing.assert_close(logits_NC, one[1][: len(channel_N)])


def test_a_transformer_answers_at_the_last_real_step():
    batch = windows(log(users=20))
    encoder = Encoder.fit(batch, SPEC)
    data = Tiles.of(batch, encoder)
    network = decision_transformer.Transformer(data, encoder).eval()
    fitted = decision_transformer.DecisionTransformer.of(network, data, labels(batch, encoder), encoder)
    x_BTD, return_BT = encoder.encode(batch)[0], asked(batch, encoder, fitted.target)
    expected = network(torch.from_numpy(x_BTD), torch.from_numpy(return_BT))[range(len(batch)), batch.length_B - 1]
    np.testing.assert_allclose(fitted.predict(batch)[0], expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_entropy_constraint_keeps_a_policy_random(monkeypatch: pytest.MonkeyPatch):
    train, val = (windows(log(seed=seed)) for seed in (1, 2))
    encoder = Encoder.fit(train, SPEC)
    monkeypatch.setattr(online_dt, "EPOCHS", 20)
    monkeypatch.setattr(learning, "PATIENCE", 20)
    monkeypatch.setattr(online_dt, "DUAL_LR", 0.2)

    def randomness(share: float) -> float:
        monkeypatch.setattr(online_dt, "RANDOMNESS", share)
        fitted = online_dt.fit(train, val, encoder, seed=0)
        data = Tiles.of(val, encoder)
        with torch.inference_mode():
            return online_dt.entropy(fitted.network.logged(data, torch.arange(len(data)))[0]).item()

    share_C = np.bincount(labels(train, encoder).channel_B) / len(train)
    most = float(-share_C @ np.log(share_C))
    assert randomness(0.0) < 0.5 * most and 0.75 * most < randomness(0.8) < 0.9 * most
    assert online_dt.entropy(torch.tensor([[0.0, 0.0], [0.0, -99.0]])).item() == pytest.approx(np.log(2) / 2)


def test_labels_are_of_the_windows_own_touchpoints():
    batch = windows(journey("u", "sOs"))
    encoder = Encoder.fit(batch, SPEC)
    found = labels(batch, encoder)
    assert found.channel_B.tolist() == [0, 1, 0]
    assert found.reward_B.tolist() == [0.0, 1.0, 0.0] and found.cost_B.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(WindowError, match="without targets"):
        labels(WindowBatch.from_steps(steps(journey("u", "so")), None, SPEC), encoder)
