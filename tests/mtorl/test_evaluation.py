"""Metrics against scikit-learn, intervals that respect users, and data that cannot answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from mtorl.evaluation import METRICS, UserResamples, auc, evaluate, interval


def log(rows: int = 3000, channels: int = 4, users: int = 300, seed: int = 0):
    random = np.random.default_rng(seed)
    user = random.integers(users, size=rows)
    channel = random.choice(channels, size=rows, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(rows, channels))
    logits[np.arange(rows), channel] += 1.0
    taste = random.normal(size=users)
    probability = 1 / (1 + np.exp(2 - taste[user]))
    target = (random.random(rows) < probability).astype(float)
    reward = np.repeat(probability[:, None], channels, axis=1).round(2)  # rounding makes ties
    return logits, reward, channel, target, np.array([f"u{i}" for i in user])


def test_values_are_those_of_scikit_learn():
    logits, reward, channel, target, users = log()
    found = evaluate(logits, reward, channel, target, users, seed=1, resamples=5)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = reward[np.arange(len(channel)), channel]
    assert found["action_accuracy"] == pytest.approx((logits.argmax(axis=1) == channel).mean())
    assert found["action_auc"] == pytest.approx(roc_auc_score(channel, probs, multi_class="ovr", average="macro"))
    assert found["action_f1"] == pytest.approx(f1_score(channel, logits.argmax(axis=1), average="macro"))
    assert found["action_logloss"] == pytest.approx(log_loss(channel, probs))
    assert found["reward_auc"] == pytest.approx(roc_auc_score(target, predicted))
    assert found["reward_logloss"] == pytest.approx(log_loss(target, predicted))


def test_a_weight_is_a_repetition():
    random = np.random.default_rng(3)
    score, positive, weight = random.random(400).round(1), random.random(400) < 0.3, random.integers(0, 4, 400)
    repeated = np.repeat(np.arange(400), weight)
    assert auc(score, positive)(weight.astype(float)) == pytest.approx(
        roc_auc_score(positive[repeated], score[repeated])
    )


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    data = log()
    found = evaluate(*data, seed=1)
    for name in METRICS:
        low, high = found[f"{name}_ci"]
        assert low < high
        if name != "reward_ece":
            assert low < found[name] < high
    assert evaluate(*data, seed=1) == found
    assert evaluate(*data, seed=2) != found
    json.dumps(found, allow_nan=False)


def test_copies_of_a_users_rows_do_not_narrow_the_interval():
    logits, reward, channel, target, users = log(rows=600)
    ten_times = [np.repeat(part, 10, axis=0) for part in (logits, reward, channel, target, users)]
    once = evaluate(logits, reward, channel, target, users, seed=1)["reward_auc_ci"]
    copied = evaluate(*ten_times, seed=1)["reward_auc_ci"]
    assert copied == pytest.approx(once, abs=1e-9)


def test_calibration_error_is_the_size_of_a_constant_bias():
    rows = 20_000
    target = (np.random.default_rng(0).random(rows) < 0.2).astype(float)
    reward = np.full((rows, 2), target.mean() + 0.1)
    found = evaluate(np.zeros((rows, 2)), reward, np.arange(rows) % 2, target, np.arange(rows), seed=0, resamples=2)
    assert found["reward_ece"] == pytest.approx(0.1, abs=0.01)


def test_one_class_only_is_null_and_not_a_crash():
    logits, reward, _, _, users = log(rows=50)
    found = evaluate(logits, reward, np.zeros(50, int), np.zeros(50), users, seed=0)
    for name in ("action_auc", "reward_auc"):
        assert found[name] is None
        assert found[f"{name}_ci"] is None
    assert found["action_accuracy"] is not None
    assert found["reward_logloss"] is not None


def test_no_rows_is_all_null():
    found = evaluate(np.zeros((0, 3)), np.zeros((0, 3)), [], [], [], seed=0)
    assert set(found) == {name + suffix for name in METRICS for suffix in ("", "_ci")}
    assert set(found.values()) == {None}


def test_success_can_be_given_for_a_gain_that_is_not_yes_or_no():
    logits, reward, channel, target, users = log()
    small = target * 0.01  # revenue far below its maximum
    assert evaluate(logits, reward, channel, small, users, 0, resamples=2)["reward_auc"] is None
    given = evaluate(logits, reward, channel, small, users, 0, positive_B=small > 0, resamples=2)
    assert given["reward_auc"] == pytest.approx(evaluate(logits, reward, channel, target, users, 0)["reward_auc"])


def test_resamples_draw_every_user_once_on_average():
    resamples = UserResamples(["a", "a", "b", "c"], resamples=400, seed=0)
    counts = np.array(list(resamples))
    assert (counts.sum(axis=1) == 3).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.15)
    assert resamples.code_B.tolist() == [0, 0, 1, 2]


def test_interval_without_numbers_is_null():
    assert interval([np.nan, np.nan]) is None
    assert interval([np.nan, 2.0]) == [2.0, 2.0]
