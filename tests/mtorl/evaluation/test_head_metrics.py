"""Tests that metrics of the model's heads equal scikit-learn's."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from mtorl.evaluation.head_metrics import METRICS, LoggedTargets, auc, compare, evaluate, top_label
from mtorl.evaluation.resamples import UserResamples, interval


def log(rows: int = 3000, channels: int = 4, users: int = 300, seed: int = 0):
    random = np.random.default_rng(seed)
    user = random.integers(users, size=rows)
    channel = random.choice(channels, size=rows, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(rows, channels))
    logits[np.arange(rows), channel] += 1.0
    taste = random.normal(size=users)
    probability = 1 / (1 + np.exp(2 - taste[user]))
    target = (random.random(rows) < probability).astype(float)
    reward = np.repeat(probability[:, None], channels, axis=1).round(2)  # rounding creates ties
    return logits, reward, LoggedTargets(channel, target, np.array([f"u{i}" for i in user]))


def test_values_equal_those_of_scikit_learn():
    logits, reward, targets = log()
    found = evaluate(logits, reward, targets, seed=1, resamples=5)
    channel, target = targets.channel_B, targets.reward_B
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


def test_intervals_contain_the_value_and_are_repeatable():
    data = log()
    found = evaluate(*data, seed=1)
    for name in METRICS:
        low, high = found[f"{name}_ci"]
        assert low < found[name] < high
    assert evaluate(*data, seed=1) == found
    assert evaluate(*data, seed=2) != found
    json.dumps(found, allow_nan=False)


def test_copies_of_a_users_rows_do_not_narrow_the_interval():
    logits, reward, targets = log(rows=600)
    columns = (logits, reward, targets.channel_B, targets.reward_B, targets.users_B)
    logits_10, reward_10, *columns_10 = (np.repeat(part, 10, axis=0) for part in columns)
    once = evaluate(logits, reward, targets, seed=1)["reward_auc_ci"]
    copied = evaluate(logits_10, reward_10, LoggedTargets(*columns_10), seed=1)["reward_auc_ci"]
    assert copied == pytest.approx(once, abs=1e-9)


def test_action_calibration_error_measures_the_first_choice():
    """The first choice has confidence 0.7 and is right in half of the rows."""
    rows = 20_000
    random = np.random.default_rng(0)
    first = random.integers(3, size=rows)
    probs = np.full((rows, 3), 0.1)
    probs[np.arange(rows), first] = 0.7
    probs[np.arange(rows), (first + 1) % 3] = 0.2
    channel = np.where(random.random(rows) < 0.5, first, (first + 1) % 3)
    found = evaluate(np.log(probs), None, LoggedTargets(channel, np.zeros(rows), np.arange(rows)), seed=0, resamples=2)
    assert found["action_ece"] == pytest.approx(0.2, abs=0.01)


def test_calibration_error_is_averaged_over_bins_of_equal_size():
    """Predictions are 0.1 too high below the median and 0.1 too low above it."""
    rows = 50_000
    random = np.random.default_rng(0)
    predicted = np.repeat(np.linspace(0.2, 0.7, rows)[:, None], 2, axis=1)
    probability = predicted[:, 0] + np.where(np.arange(rows) < rows / 2, -0.1, 0.1)
    target = (random.random(rows) < probability).astype(float)
    targets = LoggedTargets(np.zeros(rows, int), target, np.arange(rows))
    found = evaluate(np.zeros((rows, 2)), predicted, targets, seed=0, resamples=2)
    assert found["reward_ece"] == pytest.approx(0.1, abs=0.01)
    gaps = [abs(gap.mean()) for gap in np.array_split(predicted[:, 0] - target, 10)]  # sorted by prediction
    assert found["reward_ece"] == pytest.approx(np.mean(gaps))


def test_calibration_error_does_not_depend_on_the_order_of_the_log():
    logits, reward, targets = log()
    order = np.argsort(targets.reward_B, kind="stable")  # would order equal predictions by their outcomes
    one = evaluate(logits, reward, targets, seed=0, resamples=2)
    reordered = LoggedTargets(targets.channel_B[order], targets.reward_B[order], targets.users_B[order])
    two = evaluate(logits[order], reward[order], reordered, seed=0, resamples=2)
    for name in METRICS:
        assert two[name] == pytest.approx(one[name]), name


def test_an_interval_of_a_calibration_error_excludes_resampling_noise():
    """The predictions are calibrated, so the error is noise, which resampling must not increase."""
    found = [evaluate(*log(rows=1000, seed=seed), seed=seed)["reward_ece_ci"] for seed in range(20)]
    low, high = np.mean(found, axis=0)
    values = [evaluate(*log(rows=1000, seed=seed), seed=seed, resamples=1)["reward_ece"] for seed in range(20)]
    assert (low + high) / 2 == pytest.approx(np.mean(values), rel=0.1)


def test_a_constant_predictor_has_auc_one_half():
    _, _, targets = log()
    channel, target = targets.channel_B, targets.reward_B
    rows, frequency = len(channel), np.bincount(channel) / len(channel)
    logits = np.tile(np.log(frequency), (rows, 1))
    reward = np.full((rows, 4), target.mean() + 0.05)
    found = evaluate(logits, reward, targets, seed=0)
    for name in ("action_auc", "reward_auc"):
        assert found[name] == 0.5
        assert found[f"{name}_ci"] == [0.5, 0.5]
    assert found["action_ece"] == pytest.approx(0.0, abs=1e-9)
    assert found["reward_ece"] == pytest.approx(0.05)
    probability, right = top_label(logits, channel)
    assert probability.mean() == pytest.approx(right.mean()) == pytest.approx(frequency.max())


def test_compare_gives_the_same_metrics_as_evaluate():
    logits, reward, targets = log()
    predictors = {"a": (logits, reward), "b": (logits / 2, reward**2)}
    found = compare(predictors, "b", targets, seed=1)
    assert found["yardstick"] == "b"
    for name, parts in predictors.items():
        assert found["metrics"][name] == evaluate(*parts, targets, seed=1)
    assert set(found["differences"]) == {"a"}
    for name in METRICS:
        difference = found["metrics"]["a"][name] - found["metrics"]["b"][name]
        assert found["differences"]["a"][name] == pytest.approx(difference)
        low, high = found["differences"]["a"][f"{name}_ci"]
        assert low <= difference + 1e-12 and difference - 1e-12 <= high
    json.dumps(found, allow_nan=False)


def test_a_paired_difference_has_a_narrower_interval():
    """The two predictions are nearly equal, so their difference hardly depends on the drawn users."""
    logits, reward, targets = log()
    noisy = reward + np.random.default_rng(0).normal(scale=0.02, size=reward.shape).clip(-0.05, 0.05)
    found = compare({"noisy": (logits, noisy), "plain": (logits, reward)}, "plain", targets, seed=1)
    alone = np.diff(found["metrics"]["noisy"]["reward_auc_ci"])
    assert np.diff(found["differences"]["noisy"]["reward_auc_ci"]) < 0.3 * alone


def test_paired_intervals_cover_the_true_difference():
    """One predictor is biased towards channel 0; a large log gives the true difference."""

    def difference(rows: int, seed: int, resamples: int) -> dict[str, object]:
        logits, reward, targets = log(rows, users=rows // 10, seed=seed)
        parts = {"leaning": (logits + np.array([0.5, 0, 0, 0]), reward), "plain": (logits, reward)}
        return compare(parts, "plain", targets, seed, resamples=resamples)["differences"]["leaning"]

    true_difference = difference(200_000, 999, 1)["action_logloss"]
    intervals = [difference(500, seed, 100)["action_logloss_ci"] for seed in range(60)]
    assert np.mean([low <= true_difference <= high for low, high in intervals]) >= 0.88


def test_a_predictor_without_a_reward_head_has_no_reward_metrics():
    logits, reward, targets = log()
    found = compare({"actions": (logits, None), "both": (logits, reward)}, "both", targets, 0, resamples=2)
    for metrics in (found["metrics"]["actions"], found["differences"]["actions"]):
        assert {name for name in METRICS if metrics[name] is None} == {"reward_auc", "reward_logloss", "reward_ece"}
        assert metrics["reward_auc_ci"] is None and metrics["action_auc_ci"] is not None


def test_the_action_head_is_evaluated_on_the_rows_that_it_clones():
    logits, reward, targets = log()
    clone = np.arange(3000) % 3 == 0
    found = evaluate(logits, reward, replace(targets, clone_B=clone), 0, resamples=20)
    only = LoggedTargets(targets.channel_B[clone], targets.reward_B[clone], targets.users_B[clone])
    for name, value in evaluate(logits[clone], reward[clone], only, 0, resamples=2).items():
        if name.startswith("action") and not name.endswith("_ci"):
            assert found[name] == pytest.approx(value)
    everything = evaluate(logits, reward, targets, 0, resamples=20)
    assert found["reward_auc_ci"] == everything["reward_auc_ci"]
    assert found["action_logloss_ci"][0] < found["action_logloss"] < found["action_logloss_ci"][1]
    none = evaluate(logits, reward, replace(targets, clone_B=~clone & clone), 0, resamples=2)
    assert none["action_accuracy"] is None and none["reward_auc"] == everything["reward_auc"]


def test_a_single_class_gives_null_metrics():
    logits, reward, targets = log(rows=50)
    found = evaluate(logits, reward, LoggedTargets(np.zeros(50, int), np.zeros(50), targets.users_B), seed=0)
    unknown = {"action_auc", "action_auc_ci", "reward_auc", "reward_auc_ci"}
    assert {name for name, metric in found.items() if metric is None} == unknown
    nothing = evaluate(np.zeros((0, 3)), np.zeros((0, 3)), LoggedTargets([], [], []), seed=0)
    assert nothing == dict.fromkeys(found), "a log without rows is no error either"
    assert interval([np.nan, np.nan]) is None and interval([np.nan, 2.0]) == [2.0, 2.0]


def test_success_may_be_given_separately_from_the_gain():
    logits, reward, targets = log()
    small = replace(targets, reward_B=targets.reward_B * 0.01)  # revenues far below the maximum
    assert evaluate(logits, reward, small, 0, resamples=2)["reward_auc"] is None
    positive = replace(small, positive_B=small.reward_B > 0)
    auc_of_positive = evaluate(logits, reward, positive, 0, resamples=2)["reward_auc"]
    assert auc_of_positive == pytest.approx(evaluate(logits, reward, targets, 0)["reward_auc"])


def test_sums_of_a_resample_equal_those_of_its_rows():
    users_B, column_B = np.array(["a", "a", "b", "c"]), np.array([1.0, 2.0, 4.0, 8.0])
    resamples = UserResamples(users_B, resamples=50, seed=0)
    sums_S, draws_RS = resamples.sums([np.ones(4), column_B])
    assert sums_S.tolist() == [4.0, 15.0]
    expected = [[counts_U[resamples.code_B].sum(), counts_U[resamples.code_B] @ column_B] for counts_U in resamples]
    np.testing.assert_allclose(draws_RS, expected)
    assert draws_RS.std(axis=0).min() > 0
