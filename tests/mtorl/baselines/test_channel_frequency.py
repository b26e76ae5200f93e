"""The incumbent: tables by segment, smoothing, and the signature of the challenger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtorl.baselines.channel_frequency import POLICY, ChannelFrequency, fit
from mtorl.log.dataset import DatasetSpec
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch, instance_from_history


def spec(segment: str | None = "age") -> DatasetSpec:
    return DatasetSpec.from_dict(
        {
            "name": "tiny",
            "description": "three channels, one of them never used",
            "adapter": "touchpoints",
            "channels": ["search", "social", "never"],
            "context": [{"name": "hour", "kind": "numeric"}],
            "static": [{"name": "age", "kind": "categorical", "missing": "unknown"}],
            "segment": segment,
            "reward": {"gain": "click"},
            "propensity": "logged",
            "currency": "EUR",
            "window": 4,
        }
    )


def windows(description: DatasetSpec, per_age: int = 400) -> WindowBatch:
    """One touchpoint a user: the young get social 3 times of 4 and click on it, the old get search and never click."""
    rows: list[dict[str, Any]] = []
    for age, social, click in (("young", 0.75, 1), ("old", 0.0, 0)):
        for i in range(per_age):
            on_social = i < social * per_age
            row = {"channel": "social" if on_social else "search", "click": click * on_social, "conversion": 0}
            row |= {"revenue": 0.0, "cost": 0.2 if on_social else 0.6, "hour": 1.0, "age": age}
            rows.append({**row, "user_id": f"{age}{i}"})
    return windows_of(rows, description, 1)


def windows_of(rows: list[dict[str, Any]], description: DatasetSpec, length: int) -> WindowBatch:
    """The last window of each user, who has so many touchpoints, an hour apart."""
    time = pa.array(range(0, len(rows) * 3_600_000_000, 3_600_000_000), pa.timestamp("us", tz="UTC"))
    steps = pa.Table.from_pylist(rows).append_column("timestamp", time)
    return WindowBatch.from_steps(steps, np.arange(length - 1, len(rows), length), description, targets=True)


@pytest.fixture
def fitted() -> tuple[ChannelFrequency, Encoder]:
    torch.set_num_threads(1)
    batch = windows(spec())
    encoder = Encoder.fit(batch, spec())
    return fit([batch], encoder), encoder


def heads(network: ChannelFrequency, encoder: Encoder, age: str | None, description: DatasetSpec | None = None):
    description = description or spec()
    item = instance_from_history({}, {"hour": 1.0}, {"age": age}, description, at=0)
    x_BTD, length_B = encoder.encode(WindowBatch.from_instances([item], description))
    logits, reward, cost = (part[0].numpy() for part in network(torch.from_numpy(x_BTD), torch.from_numpy(length_B)))
    return np.exp(logits), reward, cost


def test_a_segment_has_its_own_frequencies_rewards_and_costs(fitted):
    probs, reward, cost = heads(*fitted, "young")
    np.testing.assert_allclose(probs, [0.25, 0.75, 0.0], atol=0.01)
    assert reward[1] == pytest.approx(1.0, abs=0.01)
    assert reward[0] < 0.1
    np.testing.assert_allclose(cost[:2], [0.6, 0.2], atol=0.01)
    probs, reward, _ = heads(*fitted, "old")
    np.testing.assert_allclose(probs, [1.0, 0.0, 0.0], atol=0.01)
    assert reward[0] < 0.01


def test_every_channel_keeps_some_probability_and_a_sensible_reward(fitted):
    probs, reward, cost = heads(*fitted, "young")
    assert probs.sum() == pytest.approx(1.0)
    assert 0 < probs[2] < 0.01
    assert 0 < reward[2] < 1
    assert 0.2 < cost[2] < 0.6


@pytest.mark.parametrize("age", [None, "ageless"])
def test_an_unknown_segment_gets_the_overall_picture(fitted, age):
    probs, _, _ = heads(*fitted, age)
    np.testing.assert_allclose(probs, [0.625, 0.375, 0.0], atol=0.01)


def test_without_a_segment_there_is_one_table():
    description = spec(segment=None)
    batch = windows(description)
    encoder = Encoder.fit(batch, description)
    network = fit([batch], encoder)
    for age in ("young", "old", None):
        probs, reward, _ = heads(network, encoder, age, description)
        np.testing.assert_allclose(probs, [0.625, 0.375, 0.0], atol=0.01)
        assert reward[1] > 0.9


def test_every_step_of_a_window_counts():
    description = spec()
    row = {"click": 0, "conversion": 0, "revenue": 0.0, "cost": 0.0, "hour": 1.0, "age": "young"}
    channels = ("search", "search", "search", "social")
    rows = [{**row, "user_id": f"u{i}", "channel": channel} for i in range(100) for channel in channels]
    batch = windows_of(rows, description, 4)
    encoder = Encoder.fit(batch, description)
    probs, _, _ = heads(fit([batch], encoder), encoder, "young")
    np.testing.assert_allclose(probs, [0.75, 0.25, 0.0], atol=0.01)


def test_its_policy_follows_the_frequencies_and_explores():
    assert POLICY.advantage_weight == 0.0
    assert POLICY.exploration == 0.1
    assert POLICY.price == 0.0
