"""Tests that the off-policy value is close to the true value in a small bandit."""

import json

import numpy as np
import pytest

from mtorl.evaluation import policy_value as module
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.messages import EFFECTIVE_SAMPLE
from mtorl.evaluation.policy_value import policy_value, top_share, value_less
from tests.messages import assert_says
from tests.mtorl.evaluation.bandit import CHALLENGER, GAIN, LOGGING, bandit, on_log

ALL = ("ips", "snips", "dr")
WRONG_GAIN = np.array([[0.6, 0.1, 0.6], [0.1, 0.5, 0.2]])
RARE = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
TRUE_VALUE = (CHALLENGER * GAIN).sum(axis=1).mean()


def value(users: int = 400, seed: int = 0, propensity=LOGGING, gain_model=GAIN, policy=CHALLENGER, **options):
    kind, log = bandit(users, seed)
    log = LoggedRows(log.channel_B, propensity[kind, log.channel_B], log.gain_B, log.cost_B, log.users_B)
    if "selected_B" in options:
        options["selected_B"] = options["selected_B"](kind, log.channel_B)
    gain_model_BC = None if gain_model is None else gain_model[kind]
    return policy_value(on_log(policy, kind, options.pop("expose", None)), log, seed, gain_model_BC, **options)


def test_intervals_cover_the_true_value():
    runs = [value(150, seed, resamples=200) for seed in range(100)]
    width = {}
    for name in ALL:
        low, high = np.array([run["estimates"][name]["value_ci"] for run in runs]).T
        assert np.mean((low <= TRUE_VALUE) & (high >= TRUE_VALUE)) >= 0.88, name
        assert np.mean([run["estimates"][name]["value"] for run in runs]) == pytest.approx(TRUE_VALUE, abs=0.005), name
        width[name] = np.mean(high - low)
    assert width["dr"] < width["snips"] < width["ips"]
    assert not any(run["not_evaluable"] for run in runs)
    low, high = np.array([run["importance_weights"]["mean_weight_ci"] for run in runs]).T
    assert np.mean((low <= 1) & (high >= 1)) >= 0.88


def mean_estimates(**change):
    runs = [value(600, seed, resamples=2, **change)["estimates"] for seed in range(40)]
    return {name: np.mean([run[name]["value"] for run in runs]) for name in ALL}


def test_doubly_robust_needs_right_propensities_or_a_right_model():
    wrong = LOGGING[::-1]
    assert mean_estimates(gain_model=WRONG_GAIN) == pytest.approx(dict.fromkeys(ALL, TRUE_VALUE), abs=0.006)
    only_model = mean_estimates(propensity=wrong)
    assert only_model["dr"] == pytest.approx(TRUE_VALUE, abs=0.006) and abs(only_model["ips"] - TRUE_VALUE) > 0.03
    assert abs(mean_estimates(propensity=wrong, gain_model=WRONG_GAIN)["dr"] - TRUE_VALUE) > 0.03


def test_the_logging_policy_has_the_logged_value_and_no_lift():
    found = value(policy=LOGGING, gain_model=None)
    assert set(found["estimates"]) == {"ips", "snips"}
    for one in found["estimates"].values():
        assert one["value"] == pytest.approx(found["logged"])
        assert one["value_ci"] == pytest.approx(found["logged_ci"])
        assert (one["lift"], *one["lift_ci"]) == pytest.approx((0.0, 0.0, 0.0))
    assert [found["importance_weights"][name] for name in ("ess_share", "overlap", "max_weight")] == pytest.approx(
        [1] * 3
    )
    assert found["not_evaluable"] is None


def test_lift_is_paired():
    """Value and logged gain are computed from the same rows, so their common noise cancels."""
    one = value(gain_model=None, policy=0.9 * LOGGING + 0.1 * CHALLENGER)["estimates"]["snips"]
    assert np.diff(one["lift_ci"]) < 0.5 * np.diff(one["value_ci"])


def test_a_difference_of_policies_is_paired():
    kind, log = bandit(2000, 0)
    ours, near = on_log(CHALLENGER, kind), on_log(0.9 * CHALLENGER + 0.1 * LOGGING, kind)
    assert value_less(ours, ours, log, 0, GAIN[kind]) == {"difference": 0.0, "difference_ci": [0.0, 0.0]}
    found, alone = value_less(ours, near, log, 0, GAIN[kind]), policy_value(ours, log, 0, GAIN[kind])
    true = 0.1 * (TRUE_VALUE - (LOGGING * GAIN).sum(axis=1).mean())
    assert found["difference_ci"][0] <= true <= found["difference_ci"][1]
    assert np.diff(found["difference_ci"]) < 0.3 * np.diff(alone["estimates"]["dr"]["value_ci"])


def test_not_exposing_earns_nothing():
    expose = np.array([[True, False, True], [True, True, False]])
    found = value(2000, expose=expose)
    for name in ALL:
        true = (CHALLENGER * GAIN * expose).sum(1).mean()
        assert found["estimates"][name]["value"] == pytest.approx(true, abs=0.02)


def test_a_selection_is_valued_like_a_separate_log():
    kind, log = bandit(800, 0)
    chosen_B = kind == 1
    found = value(800, selected_B=lambda kind, _: kind == 1, resamples=300)
    columns = (log.channel_B, log.propensity_B, log.gain_B, log.cost_B, log.users_B)
    rows, policy = LoggedRows(*(column[chosen_B] for column in columns)), on_log(CHALLENGER, kind[chosen_B])
    alone = policy_value(policy, rows, 0, GAIN[kind[chosen_B]], resamples=300)
    assert (found["rows"], found["users"]) == (chosen_B.sum(), len(np.unique(log.users_B[chosen_B])))
    for weights in (found["importance_weights"], alone["importance_weights"]):
        del weights["mean_weight_ci"]
    assert found["importance_weights"] == pytest.approx(alone["importance_weights"])
    for name in ALL:
        here, there = found["estimates"][name], alone["estimates"][name]
        assert (here["value"], here["lift"]) == pytest.approx((there["value"], there["lift"]))
        assert np.diff(here["lift_ci"]) == pytest.approx(np.diff(there["lift_ci"]), rel=0.25)


def test_a_selection_that_used_the_logged_channel_is_detected():
    """The predicted gain of the logged channel selects the rows."""
    best = np.eye(3)[GAIN.argmax(axis=1)]
    assert value(policy=best)["not_evaluable"] is None
    peeked = value(policy=best, selected_B=lambda kind, channel_B: GAIN[kind, channel_B] >= 0.2)
    assert peeked["importance_weights"]["mean_weight_ci"][0] > 1.05 and peeked["not_evaluable"]


def test_top_share_takes_the_highest_and_breaks_ties_by_its_seed():
    score_B = np.r_[np.zeros(50), np.ones(10), np.zeros(40)]
    chosen_B = top_share(score_B, 0.375, seed=0)
    assert chosen_B.sum() == 38 and chosen_B[50:60].all()
    assert 0 < chosen_B[:50].sum() < 28
    assert (top_share(score_B, 0.375, seed=0) == chosen_B).all()
    assert (top_share(score_B, 0.375, seed=1) != chosen_B).any()


def test_a_policy_with_little_overlap_is_not_evaluable(monkeypatch: pytest.MonkeyPatch) -> None:
    # By default, the effective sample must have a tenth of the rows.
    assert value(policy=RARE)["not_evaluable"] is None
    monkeypatch.setattr(module, "MIN_ESS_SHARE", 0.27)
    found, selected = value(policy=RARE), value(policy=RARE, selected_B=lambda kind, _: kind == 1)
    assert found["importance_weights"]["ess_share"] == pytest.approx(0.24, abs=0.02)
    assert_says(found["not_evaluable"], EFFECTIVE_SAMPLE, arm="policy")
    assert found["estimates"]["snips"]["value"] is not None
    assert selected["importance_weights"]["ess"] < 0.27 * found["rows"] and selected["not_evaluable"] is None


def test_a_policy_without_any_weight_has_null_values():
    rows = 50
    far = PolicyOnLog.always_exposing(np.tile([0.0, 1.0], (rows, 1)))
    log = LoggedRows(np.zeros(rows, int), np.full(rows, 0.9), np.ones(rows), np.ones(rows), np.arange(rows))
    found = policy_value(far, log, 0)
    assert found["estimates"]["snips"] == {"value": None, "value_ci": None, "lift": None, "lift_ci": None}
    assert found["not_evaluable"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert value(resamples=20) == value(resamples=20)


def test_a_selection_of_no_row_is_refused():
    with pytest.raises(ValueError, match="selected_B"):
        value(20, selected_B=lambda kind, _: kind > 1)
