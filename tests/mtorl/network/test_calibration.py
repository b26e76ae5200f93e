"""Tests that calibration removes systematic errors and unconfirmed differences."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from mtorl.network.calibration import Calibration, calibrate
from mtorl.network.ensemble import Ensemble
from mtorl.network.model import MTORL, MTORLConfig

EFFECT_C = np.array([0.1, 0.0, -0.1])


def calibrated_heads(rows: int, confirmed: float = 1.0):
    """Return predictions and outcomes; true differences are `confirmed` times the predicted ones."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(rows, 3))
    probs = np.exp(log_softmax(logits, axis=1))
    channel = (random.random(rows)[:, None] > probs.cumsum(axis=1)).sum(axis=1)
    common = random.normal(-1, 1, size=(rows, 1)) + EFFECT_C
    rest = random.normal(0, 0.5, size=(rows, 3))
    rest -= rest.mean(axis=1, keepdims=True)
    true = (common + confirmed * rest)[np.arange(rows), channel]
    return logits, channel, common + rest, (random.random(rows) < expit(true)).astype(float)


def calibrated(logits, channel, odds, label, users_B=None, **more) -> Calibration:
    users = np.arange(len(channel)) if users_B is None else users_B
    return calibrate(logits, expit(odds), channel, label, users, **more)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.0, 0.5), (0.5, -1.0)])
def test_calibration_removes_a_distortion(scale, shift):
    logits, channel, odds, label = calibrated_heads(50_000)
    found = calibrated(logits * scale, channel, odds * scale + shift, label)
    assert found.action_scale == pytest.approx(1 / scale, rel=0.05)
    assert found.reward_scale == pytest.approx(1 / scale, rel=0.05)
    assert found.reward_shift_C == pytest.approx([-shift / scale] * 3, abs=0.1)
    assert found.personal_share > 0.85


@pytest.mark.parametrize("confirmed", [0.0, 0.5, 1.0])
def test_personal_differences_count_as_far_as_held_out_users_confirm(confirmed):
    heads = calibrated_heads(20_000, confirmed)
    share = calibrated(*heads).personal_share
    assert confirmed - 0.25 < share < confirmed or share == confirmed == 0
    # Ten equal rows of one user count like one row.
    of_few = [np.repeat(part[:2000], 10, axis=0) for part in heads]
    few = calibrated(*of_few, users_B=np.repeat(np.arange(2000), 10)).personal_share
    assert few == pytest.approx(calibrated(*(part[:2000] for part in heads)).personal_share, abs=0.02)


def test_without_confirmed_differences_one_channel_is_best_for_all():
    heads = calibrated_heads(5000, confirmed=0.0)
    odds = heads[2]
    mean_C = np.array([0.2, 0.31, 0.3])
    for known, best in ((None, 0), (mean_C, 1)):
        _, scale, share, shift_C = calibrated(*heads, mean_C=known)
        common = odds.mean(axis=1, keepdims=True)
        reward = expit(scale * (common + share * (odds - common)) + shift_C)
        assert (reward.argmax(axis=1) == best).all()
        if known is not None:
            assert reward.mean(axis=0) - reward.mean() == pytest.approx(mean_C - mean_C.mean(), abs=0.02)


def test_the_action_scale_is_fitted_to_the_rows_to_clone():
    logits, channel, odds, label = calibrated_heads(20_000)
    own = np.arange(20_000) >= 10_000
    tilted = np.where(own, logits.argmax(axis=1), channel)  # the policy's own decisions are deterministic
    found = calibrated(logits, tilted, odds, label, clone_B=~own)
    of_log = calibrated(logits[~own], channel[~own], odds[~own], label[~own])
    assert found.action_scale == pytest.approx(of_log.action_scale, rel=1e-3)
    everything = calibrated(logits, tilted, odds, label)
    assert found[1:3] == pytest.approx(everything[1:3], rel=1e-6)
    none = calibrated(logits, channel, odds, label, clone_B=np.zeros(20_000, dtype=bool))
    assert none.action_scale == 1.0


def test_without_rows_nothing_changes_and_few_rows_change_little():
    empty = np.empty((0, 3))
    assert calibrated(empty, np.empty(0, dtype=int), empty, np.empty(0)) == (1.0, 1.0, 1.0, [0.0] * 3)
    found = calibrated(np.zeros((1, 3)), np.array([0]), np.array([[2.0, 0.0, -2.0]]), np.array([1.0]))
    assert np.isfinite(found.reward_shift_C).all() and found.personal_share == 0
    assert 0.2 <= found.action_scale <= 5 and 0.2 <= found.reward_scale <= 5


def test_a_network_applies_its_calibration():
    torch.manual_seed(0)
    config = MTORLConfig(inputs=9, channels=3, window=4, outcomes=2, hidden=8)
    network = Ensemble([MTORL(config) for _ in range(2)]).eval()
    x, length = torch.randn(5, 4, 9), torch.tensor([1, 2, 3, 4, 4])
    with torch.inference_mode():
        logits, reward, cost = network(x, length)
        network.calibrate(2.0, 0.5, 0.4, [0.25, 0.0, -1.0])
        new_logits, new_reward, new_cost = network(x, length)
    torch.testing.assert_close(new_logits, 2 * logits)
    odds, shift = torch.logit(reward), torch.tensor([0.25, 0.0, -1.0])
    shrunk = 0.6 * odds.mean(1, keepdim=True) + 0.4 * odds
    torch.testing.assert_close(new_reward, torch.sigmoid(0.5 * shrunk + shift), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new_cost, cost)
    of_arrays = Calibration(2.0, 0.5, 0.4, [0.25, 0.0, -1.0]).of(logits.numpy(), reward.numpy())
    for array, tensor in zip(of_arrays, (new_logits, new_reward), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)
    fresh = Ensemble([MTORL(config) for _ in range(2)]).eval()
    fresh.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(fresh(x, length)[0], new_logits)
