import numpy as np
import pytest
import torch

from mtorl.baselines.channel_frequency import fit
from mtorl.log.dataset import DatasetSpec
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, instance_from_history
from tests.mtorl.baselines.tiny_log import SPEC, windows

BY_DEVICE = DatasetSpec.from_dict(
    {
        **SPEC.to_dict(),
        "channels": ["search", "social", "never"],
        "context": [{"name": "hour", "kind": "numeric"}],
        "static": [{"name": "device", "kind": "categorical", "missing": "unknown"}],
        "segment": "device",
    }
)
ROWS = [
    {"user_id": f"{device}{i}", "device": device, "channel": "social", "click": 1, "cost": 0.2}
    if i < social * 400
    else {"user_id": f"{device}{i}", "device": device, "channel": "search", "cost": 0.6}
    for device, social in (("phone", 0.75), ("tv", 0.0))
    for i in range(400)
]
"""One touchpoint a user: phones get social 3 times of 4 and click on it, TVs get search and never click."""


def heads(device: str | None, spec: DatasetSpec = BY_DEVICE, batch: WindowBatch | None = None):
    torch.set_num_threads(1)
    batch = windows(ROWS, spec) if batch is None else batch
    encoder = Encoder.fit(batch, spec)
    item = instance_from_history({}, {"hour": 1.0}, {"device": device}, spec, at=0)
    x_BTD, length_B = encoder.encode(WindowBatch.from_instances([item], spec))
    network = fit([batch], encoder)
    logits, reward, cost = (part[0].numpy() for part in network(torch.from_numpy(x_BTD), torch.from_numpy(length_B)))
    return np.exp(logits), reward, cost


def test_a_segment_has_its_own_frequencies_rewards_and_costs():
    probs, reward, cost = heads("phone")
    np.testing.assert_allclose(probs, [0.25, 0.75, 0.0], atol=0.01)
    assert reward[1] == pytest.approx(1.0, abs=0.01) and reward[0] < 0.1
    np.testing.assert_allclose(cost[:2], [0.6, 0.2], atol=0.01)
    assert probs.sum() == pytest.approx(1.0)
    assert 0 < probs[2] < 0.01 and 0 < reward[2] < 1 and 0.2 < cost[2] < 0.6, "a channel that was never used"
    probs, reward, _ = heads("tv")
    np.testing.assert_allclose(probs, [1.0, 0.0, 0.0], atol=0.01)
    assert reward[0] < 0.01


@pytest.mark.parametrize("device", [None, "watch"])
def test_an_unknown_segment_gets_the_overall_table(device):
    np.testing.assert_allclose(heads(device)[0], [0.625, 0.375, 0.0], atol=0.01)


def test_without_a_segment_there_is_one_table():
    for device in ("phone", "tv", None):
        probs, reward, _ = heads(device, BY_DEVICE.replace(segment=None))
        np.testing.assert_allclose(probs, [0.625, 0.375, 0.0], atol=0.01)
        assert reward[1] > 0.9


def test_every_step_of_a_window_counts():
    channels = ("search", "search", "search", "social")
    rows = [{"user_id": f"u{i}", "device": "tv", "channel": channel} for i in range(100) for channel in channels]
    last = windows(rows, BY_DEVICE).take(np.arange(3, 400, 4))
    np.testing.assert_allclose(heads("tv", batch=last)[0], [0.75, 0.25, 0.0], atol=0.01)
