"""Tests that each baseline learns the pattern of a small log."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.special import logit

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
    repeat_last,
)
from mtorl.baselines.inputs import mean_cost
from mtorl.evaluation.head_metrics import LoggedTargets, evaluate
from mtorl.network.calibration import calibrate
from mtorl.window.encoder import Encoder, labels
from tests.mtorl.baselines.tiny_log import SPEC, journey, sticky_log, windows

COUNTING = [repeat_last, markov]
WITHOUT_REWARD = [behaviour_cloning, decision_transformer]
BASELINES = [*COUNTING, logistic, lightgbm, cql, iql, bcq, *WITHOUT_REWARD]


def test_markov_counts_transitions():
    train = windows([*journey("a", "sss"), *journey("b", "oso")])
    encoder = Encoder.fit(train, SPEC)
    fitted = markov.fit(train, train, encoder, seed=0)
    # The counts of transitions plus 1, with the start as the last row.
    expected = np.array([[3, 2], [2, 1], [2, 2]], dtype=float)
    np.testing.assert_allclose(np.exp(fitted.logits_SC), expected / expected.sum(axis=1, keepdims=True))
    logits_BC, reward_BC, cost_BC = fitted.predict(train)
    assert np.exp(logits_BC[1]) == pytest.approx([0.6, 0.4])
    assert reward_BC[0] == pytest.approx([fitted.mean_reward] * 2)
    assert cost_BC[2] == pytest.approx([(1 + 2 + 2 * fitted.mean_cost) / 4] * 2)


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_learns_the_sticky_channel_and_answers_for_all_channels(baseline: ModuleType):
    train, val, test = (windows(sticky_log(seed=seed)) for seed in (1, 2, 3))
    encoder = Encoder.fit(train, SPEC)
    torch_before = torch.get_rng_state()
    fitted = baseline.fit(train, val, encoder, seed=0)
    assert torch.equal(torch_before, torch.get_rng_state()), "the global random state must not change"
    logits_BC, reward_BC, cost_BC = fitted.predict(test)
    for head_BC in (logits_BC, reward_BC, cost_BC):
        assert head_BC.shape == (len(test), 2) and np.isfinite(head_BC).all()
    assert ((reward_BC >= 0) & (reward_BC <= 1)).all() and (cost_BC >= 0).all()
    logged = labels(test, encoder)
    targets = LoggedTargets(logged.channel_B, logged.reward_B, np.arange(len(test)))
    metrics = evaluate(logits_BC, reward_BC, targets, 0, resamples=2)
    assert metrics["action_auc"] > 0.8
    # A Decision Transformer imitates only the best journeys, so its loss on all journeys is larger.
    assert metrics["action_logloss"] < 0.36 or baseline is decision_transformer
    if baseline in WITHOUT_REWARD:
        np.testing.assert_allclose(reward_BC, labels(train, encoder).reward_B.mean())
    else:
        assert metrics["reward_auc"] > (0.6 if baseline in COUNTING else 0.78)
        assert metrics["reward_logloss"] < 0.57, "the constant mean has .575"
    torch.rand(1)  # other draws must not change the result
    again = baseline.fit(train, val, encoder, seed=0).predict(test)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(fitted.predict(test), again, strict=True))


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_channel_unused_in_training_has_predictions(baseline: ModuleType):
    spec = SPEC.replace(channels=("search", "social", "mail"))
    train, val = (windows(sticky_log(users=60, seed=seed), spec) for seed in (1, 2))
    used = windows([*journey("u", "so"), *[{"user_id": "v", "channel": "mail"}] * 2], spec)
    fitted = baseline.fit(train, val, Encoder.fit(train, spec), seed=0)
    for head_BC in fitted.predict(used):
        assert head_BC.shape == (4, 3) and np.isfinite(head_BC).all()


@pytest.mark.parametrize(("baseline", "margin"), [(lightgbm, 0.4), (logistic, 0.1)])
def test_regressions_learn_the_cost_and_reward_of_each_channel(baseline: ModuleType, margin: float):
    train, val = (windows(sticky_log(seed=seed)) for seed in (1, 2))
    encoder, test = Encoder.fit(train, SPEC), windows(journey("u", "ss"))
    _, reward_BC, cost_BC = baseline.fit(train, val, encoder, seed=0).predict(test)
    assert cost_BC == pytest.approx(np.array([[1.0, 5.0]] * 2), rel=0.1)
    assert reward_BC[1, 0] > reward_BC[1, 1] + margin, "after search, search earns more than social"
    for price in (0.0, 2.0):
        same = windows([{**row, "cost": price} for row in sticky_log(seed=1)])
        assert (baseline.fit(same, same, encoder, seed=0).predict(test)[2] == price).all(), "a single price is exact"


def test_lightgbm_is_the_calibrated_mean_of_two_seeds():
    train, val, test = (windows(sticky_log(users=60, seed=seed)) for seed in (1, 2, 3))
    encoder = Encoder.fit(train, SPEC)
    fitted = lightgbm.fit(train, val, encoder, seed=0)
    each = [replace(fitted, members=(one,)).predict(test) for one in fitted.members]
    np.testing.assert_allclose(fitted.predict(test)[1], (each[0][1] + each[1][1]) / 2)
    assert not np.array_equal(each[0][1], each[1][1])
    logged = labels(val, encoder)
    users_B = np.arange(len(logged.channel_B))
    calibrated = fitted.calibrated(val, users_B)
    logits_BC, reward_BC, _ = fitted.predict(val)
    expected = calibrate(logits_BC, reward_BC, logged.channel_B, logged.reward_B, users_B)
    assert calibrated.calibration == expected
    np.testing.assert_allclose(calibrated.predict(val)[1], expected.of(logits_BC, reward_BC)[1])


def test_repeat_last_counts_repetitions():
    train = windows([*journey("a", "ssS"), *journey("b", "oSs"), *journey("c", "o")])
    encoder = Encoder.fit(train, SPEC)
    logits_BC, reward_BC, cost_BC = repeat_last.fit(train, train, encoder, seed=0).predict(train)
    # Search follows search three times, and it follows social once.
    stay = (3 + 1) / (4 + 2)
    start_C = np.array([5 + 1, 2 + 1]) / (7 + 2)
    expected = [start_C, [stay, 1 - stay], [stay, 1 - stay], start_C, [1 - stay, stay], [stay, 1 - stay], start_C]
    np.testing.assert_allclose(np.exp(logits_BC), expected)
    mean = 2 / 7  # of all clicks
    after_start, after_hit, after_miss = (0 + 20 * mean) / 23, (0 + 20 * mean) / 21, (2 + 20 * mean) / 23
    outcomes = [after_start, after_miss, after_miss, after_start, after_miss, after_hit, after_start]
    np.testing.assert_allclose(reward_BC, np.repeat(np.array(outcomes)[:, None], 2, axis=1))
    np.testing.assert_allclose(cost_BC, [mean_cost(labels(train, encoder), 2)] * 7)


def test_repeat_last_does_not_see_a_late_gain():
    train = windows(sticky_log(users=20))
    late = Encoder.fit(train, SPEC.replace(immediate=("cost",)))
    rewards = repeat_last.fit(train, train, late, seed=0).predict(windows(journey("u", "sSs")))[1]
    assert rewards[1, 0] == rewards[2, 0]


def test_the_cost_of_a_rare_channel_is_shrunk_to_the_mean():
    train = windows([*journey("a", "s" * 40), {"user_id": "b", "channel": "social", "cost": 1000.0}])
    logged = labels(train, Encoder.fit(train, SPEC))
    np.testing.assert_allclose(
        mean_cost(logged, 2), [(820 + 20 * 1820 / 41) / (40 + 20), (1000 + 20 * 1820 / 41) / (1 + 20)]
    )


def test_linear_models_choose_their_regularisation(monkeypatch: pytest.MonkeyPatch):
    train, val = (windows(sticky_log(seed=seed)) for seed in (1, 2))
    monkeypatch.setattr(logistic, "STRENGTHS", (100.0, 1e-4))
    fitted = logistic.fit(train, val, Encoder.fit(train, SPEC), seed=0)
    assert fitted.predict(windows(journey("u", "ss")))[2] == pytest.approx(np.array([[1.0, 5.0]] * 2), rel=0.1)


def test_a_reward_may_be_a_fraction():
    """The revenue is divided by its maximum, 4: search earns 0.25 of it."""
    spec = SPEC.replace(reward=SPEC.reward.replace(gain="revenue"))
    earned = {"search": 1.0, "social": 3.0}
    rows = [{**row, "revenue": earned[row["channel"]]} for row in sticky_log(users=100)]
    rows += [{"user_id": "z", "channel": "search", "revenue": value} for value in (0.0, 4.0)]
    train = windows(rows, spec)
    reward_BC = logistic.fit(train, train, Encoder.fit(train, spec), seed=0).predict(train)[1]
    assert reward_BC.mean(0) == pytest.approx([0.25, 0.75], abs=0.02)


def test_the_temperature_fits_the_log():
    random = np.random.default_rng(0)
    value_BC = random.normal(size=(20_000, 3)) * 3
    share_BC = np.exp(value_BC / 2)
    share_BC /= share_BC.sum(1, keepdims=True)
    channel_B = (random.random((len(share_BC), 1)) > share_BC.cumsum(1)).sum(1)
    assert learning.temperature(value_BC, channel_B) == pytest.approx(2, rel=0.05)
    assert learning.temperature(-value_BC, channel_B) > 500, "misleading values are ignored"


def test_rewards_increase_with_values():
    random = np.random.default_rng(0)
    value_B = random.normal(5, 3, size=20_000)
    reward_B = (random.random(20_000) < 1 / (1 + np.exp(3 - 0.5 * value_B))).astype(float)
    low, middle = logit(learning.reward_of_value(value_B, reward_B)(np.array([0.0, 6.0])))
    assert (low, middle) == pytest.approx((-3.0, 0.0), abs=0.3)
    turned_B = learning.reward_of_value(-value_B, reward_B)(value_B)
    assert turned_B == pytest.approx(reward_B.mean(), abs=1e-3)


def test_training_keeps_the_best_epoch_and_stops():
    network = torch.nn.Linear(1, 1, bias=False)
    seen = []

    def validate() -> float:
        seen.append(network.weight.item())
        return abs(len(seen) - 2)

    with learning.seeded(0):
        learning.learn(network, 8, lambda rows: network(torch.ones(1)), learning.Schedule(50, 0.1, batch=4), validate)
    assert len(seen) == 2 + learning.PATIENCE and network.weight.item() == seen[1] != seen[-1]


@pytest.mark.parametrize("baseline", [behaviour_cloning, iql, decision_transformer])
def test_validation_users_determine_when_to_stop(baseline: ModuleType):
    train, other = windows(sticky_log()), windows([row for i in range(50) for row in journey(f"u{i}", "soso")])
    encoder = Encoder.fit(train, SPEC)
    one, two = (baseline.fit(train, val, encoder, seed=0).predict(train)[0] for val in (train, other))
    assert abs(one).mean() > abs(two).mean(), "validation users who behave differently stop training earlier"
