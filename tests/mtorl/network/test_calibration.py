"""Calibration: it undoes a distortion, changes no ranking, and leaves alone what is right or unknown."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from mtorl.network.calibration import Calibration, calibrate
from mtorl.network.ensemble import Ensemble
from mtorl.network.model import MTORL, MTORLConfig


def calibrated_heads(rows: int):
    random = np.random.default_rng(0)
    logits = random.normal(size=(rows, 3))
    probs = np.exp(log_softmax(logits, axis=1))
    channel = (random.random(rows)[:, None] > probs.cumsum(axis=1)).sum(axis=1)
    odds = random.normal(-1, 1, size=rows)
    return logits, channel, odds, (random.random(rows) < expit(odds)).astype(float)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.0, 0.5), (0.5, -1.0)])
def test_a_distortion_is_undone(scale, shift):
    logits, channel, odds, label = calibrated_heads(50_000)
    calibration = calibrate(logits * scale, expit(odds * scale + shift), channel, label)
    assert calibration.action_scale == pytest.approx(1 / scale, rel=0.05)
    assert calibration.reward_scale == pytest.approx(1 / scale, rel=0.05)
    assert calibration.reward_shift == pytest.approx(-shift / scale, abs=0.1)


def test_the_action_scale_is_that_of_the_rows_to_be_cloned():
    logits, channel, odds, label = calibrated_heads(20_000)
    own = np.arange(20_000) >= 10_000
    tilted = np.where(own, logits.argmax(axis=1), channel)  # ours are sure of themselves
    calibration = calibrate(logits, expit(odds), tilted, label, clone_B=~own)
    of_log = calibrate(logits[~own], expit(odds[~own]), channel[~own], label[~own])
    assert calibration.action_scale == pytest.approx(of_log.action_scale, rel=1e-3)
    everything = calibrate(logits, expit(odds), channel, label)
    assert calibration.reward_scale == pytest.approx(everything.reward_scale, rel=1e-6)
    none = calibrate(logits, expit(odds), channel, label, clone_B=np.zeros(20_000, dtype=bool))
    assert none.action_scale == 1.0


def test_without_rows_nothing_changes_and_few_rows_change_little():
    assert calibrate(np.empty((0, 3)), np.empty(0), np.empty(0, dtype=int), np.empty(0)) == Calibration(1.0, 1.0, 0.0)
    calibration = calibrate(np.zeros((1, 3)), np.array([0.5]), np.array([0]), np.array([1.0]))
    assert (
        all(np.isfinite(calibration)) and 0.2 <= calibration.action_scale <= 5 and 0.2 <= calibration.reward_scale <= 5
    )


def test_a_network_serves_what_was_calibrated():
    torch.manual_seed(0)
    config = MTORLConfig(inputs=9, channels=3, window=4, outcomes=2, hidden=8)
    network = Ensemble([MTORL(config) for _ in range(2)]).eval()
    x, length = torch.randn(5, 4, 9), torch.tensor([1, 2, 3, 4, 4])
    with torch.inference_mode():
        logits, reward, cost = network(x, length)
        network.calibrate(2.0, 0.5, 0.25)
        new_logits, new_reward, new_cost = network(x, length)
    torch.testing.assert_close(new_logits, 2 * logits)
    torch.testing.assert_close(new_reward, torch.sigmoid(0.5 * torch.logit(reward) + 0.25), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new_cost, cost)
    fresh = Ensemble([MTORL(config) for _ in range(2)]).eval()
    fresh.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(fresh(x, length)[0], new_logits)
