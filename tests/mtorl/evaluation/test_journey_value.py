"""Value over whole journeys in a small market in which a choice decides on the next state."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from mtorl.evaluation import journey_value as module
from mtorl.evaluation.journey_value import journey_value
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.policy_value import policy_value

# Channel 1 warms a user up, channel 0 harvests; by state (cold, warm) and channel.
WARM_NEXT = np.array([[0.1, 0.8], [0.2, 0.9]])
GAIN = np.array([[0.10, 0.05], [0.70, 0.30]])
LOGGING = np.array([[0.7, 0.3], [0.6, 0.4]])
POLICY = np.array([[0.3, 0.7], [0.8, 0.2]])
LENGTHS = np.array([1, 3, 5])


def journeys_log(journeys: int, seed: int, steps: int = 5):
    """All journeys step by step, then those rows that a log would hold: two journeys a user, of different lengths."""
    random = np.random.default_rng(seed)
    state_J = np.zeros(journeys, dtype=int)
    columns = []
    for step in range(steps):
        channel_J = (random.random(journeys) >= LOGGING[state_J, 0]).astype(int)
        gain_J = random.random(journeys) < GAIN[state_J, channel_J]
        columns.append((state_J, channel_J, gain_J, np.full(journeys, step)))
        state_J = (random.random(journeys) < WARM_NEXT[state_J, channel_J]).astype(int)
    state, channel, gain, step = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    here = step < np.resize(LENGTHS, journeys)[:, None]
    users = np.repeat(np.arange(journeys) // 2, steps).reshape(journeys, steps)
    state, channel, step = state[here], channel[here], step[here]
    gain = gain[here].astype(float)
    return state, LoggedRows(channel, LOGGING[state, channel], gain, np.ones(len(gain)), users[here]), step


def true_value(policy: np.ndarray, horizon: int) -> float:
    """Gain per journey; lengths are equally common."""
    warm, total = 0.0, 0.0
    for step in range(horizon):
        share = np.array([1 - warm, warm])
        total += share @ (policy * GAIN).sum(axis=1) * (step < LENGTHS).mean()
        warm = share @ (policy * WARM_NEXT).sum(axis=1)
    return total


def estimate(journeys: int, seed: int, horizon: int, policy: np.ndarray = POLICY, **options):
    state, log, step = journeys_log(journeys, seed)
    return journey_value(PolicyOnLog.always_exposing(policy[state]), log, step, horizon, seed, **options)


@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_intervals_cover_the_true_value(horizon):
    runs = [estimate(600, seed, horizon, resamples=200)["estimates"] for seed in range(100)]
    for name in ("pdis", "snpdis"):
        found = [run[name] for run in runs]
        low, high = np.array([one["value_ci"] for one in found]).T
        assert np.mean((low <= true_value(POLICY, horizon)) & (true_value(POLICY, horizon) <= high)) >= 0.88, name
        assert np.mean([one["value"] for one in found]) == pytest.approx(true_value(POLICY, horizon), rel=0.015), name
    lift = np.mean([run["snpdis"]["lift"] for run in runs])
    assert lift == pytest.approx(true_value(POLICY, horizon) - true_value(LOGGING, horizon), rel=0.1)


def test_three_journeys_by_hand():
    """Weights 2, 1 and 3 | 0.5 | 1, 2; the second journey ends after its first step and keeps its weight."""
    weight, gain = np.array([2.0, 1.0, 3.0, 0.5, 1.0, 2.0]), np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    step, users = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 0, 0, 1, 2, 2])
    chosen = 0.3 * weight  # the policy's probability of the logged channel 0, at a propensity of 0.3
    policy = PolicyOnLog.always_exposing(np.stack([chosen, 1 - chosen], axis=1))
    log = LoggedRows(np.zeros(6, int), np.full(6, 0.3), gain, np.ones(6), users)
    found = journey_value(policy, log, step, 3, 0)
    assert found["logged"] == pytest.approx(4 / 3)
    assert found["estimates"]["pdis"]["value"] == pytest.approx((2 + 0.5 + 2 + 6) / 3)
    # rho by step: 2, 0.5, 1 | 2, 0.5, 2 | 6, 0.5, 2
    assert found["estimates"]["snpdis"]["value"] == pytest.approx(2.5 / 3.5 + 2 / 4.5 + 6 / 8.5)
    assert found["ess_share"][2] == pytest.approx(8.5**2 / (36 + 0.25 + 4) / 3)
    assert found["max_weight"] == pytest.approx(6.0)
    assert journey_value(policy, log, step, 50, 0) == found, "steps past the longest journey add nothing"
    never = journey_value(PolicyOnLog(policy.probs_BC, np.zeros((6, 2))), log, step, 3, 0)
    assert never["estimates"]["pdis"]["value"] == 0.0, "what is not exposed earns nothing"
    assert never["estimates"]["snpdis"]["lift"] == pytest.approx(-4 / 3)


def test_a_horizon_of_one_is_the_first_step():
    state, log, step = journeys_log(600, seed=0)
    first = step == 0
    policy = PolicyOnLog.always_exposing(POLICY[state][first])
    columns = (log.channel_B, log.propensity_B, log.gain_B, log.cost_B, log.users_B)
    one_step = policy_value(policy, LoggedRows(*(column[first] for column in columns)), 0)["estimates"]
    found = estimate(600, 0, 1)
    assert found["estimates"]["pdis"] == one_step["ips"]
    assert found["estimates"]["snpdis"] == one_step["snips"]


def test_the_effective_sample_shrinks_with_every_step_and_the_evaluable_horizon_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = estimate(3000, 0, 5, policy=np.array([[0.0, 1.0], [1.0, 0.0]]))
    shares = found["ess_share"]
    assert all(later < earlier for earlier, later in pairwise(shares))
    assert shares[0] == pytest.approx(0.3, abs=0.03)
    assert 1 <= found["evaluable_horizon"] < 5
    assert found["not_evaluable"] is not None
    shorter = estimate(3000, 0, found["evaluable_horizon"], policy=np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert shorter["not_evaluable"] is None
    monkeypatch.setattr(module, "MIN_ESS_SHARE", 0.0)
    assert estimate(3000, 0, 5, policy=np.array([[0.0, 1.0], [1.0, 0.0]]))["not_evaluable"] is None


def test_result_is_json_even_without_any_weight():
    log = LoggedRows(np.zeros(4, int), np.full(4, 0.9), np.ones(4), np.ones(4), np.arange(4) // 2)
    far = PolicyOnLog.always_exposing(np.tile([0.0, 1.0], (4, 1)))
    found = journey_value(far, log, np.arange(4) % 2, horizon=2, seed=0, resamples=5)
    assert found["estimates"]["snpdis"]["value"] is None
    assert found["evaluable_horizon"] == 0
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("step", "users"), [([0, 2, 0, 1], "aabb"), ([1, 2, 0, 1], "aabb"), ([0, 1, 0, 1], "abbb")])
def test_rows_that_are_no_whole_journeys_are_refused(step, users):
    policy = PolicyOnLog.always_exposing(np.full((4, 2), 0.5))
    log = LoggedRows(np.zeros(4, int), np.full(4, 0.5), np.ones(4), np.ones(4), list(users))
    with pytest.raises(ValueError, match="must count"):
        journey_value(policy, log, np.array(step), 2, 0)
