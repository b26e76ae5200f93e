"""Tests that attributions are exact for a network with a known formula."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mtorl.artifact.explanation import explain, touchpoints, without, without_past
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import Instance, WindowBatch, instance_from_history

DESCRIPTION = """
{name: small, channels: [search, video], segment: region, propensity: logged, window: 4,
context: [{name: hour, kind: numeric}], static: [{name: region, kind: categorical, missing: unknown}]}
"""
SPEC = DatasetSpec.from_dict(yaml.safe_load(DESCRIPTION))
MINUTE = 60_000_000


def journey(clicks: list[float], spec: DatasetSpec = SPEC, present: float = 99.0) -> Instance:
    """Return the window of a user with these earlier clicks, a minute apart on alternating channels."""
    k = len(clicks)
    history: dict[str, Any] = {
        "hist_channel": [spec.channels[i % 2] for i in range(k)],
        "hist_timestamp": [i * MINUTE for i in range(k)],
        "hist_click": clicks,
        **{f"hist_{name}": [0.0] * k for name in ("conversion", "revenue", "cost")},
        "hist_hour": [float(i) for i in range(k)],
    }
    return instance_from_history(history, {"hour": present}, {"region": "north"}, spec, k * MINUTE)


class Additive:
    """A network with reward 0.1 plus 0.05 per click, whose first logit counts the touchpoints."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, batch: WindowBatch) -> tuple[Any, Any, Any]:
        self.calls.append(len(batch))
        happened_N = batch.prev_channel_N < len(SPEC.channels)
        reward_BC, logits_BC = np.full((len(batch), 2), 0.1), np.zeros((len(batch), 2))
        for b in range(len(batch)):
            own_N = happened_N & (batch.row_N == b)
            reward_BC[b] += 0.05 * batch.prev_outcomes["click"][own_N].sum()
            logits_BC[b, 0] = own_N.sum()
        return logits_BC, reward_BC, np.zeros_like(reward_BC)


def artifact(network: Any, spec: DatasetSpec = SPEC) -> Any:
    encoder = SimpleNamespace(unreward=lambda reward, cost: 2 * reward)
    return SimpleNamespace(spec=spec, encoder=encoder, predict=network.predict)


def test_attributions_are_exact_and_share_one_forward_pass() -> None:
    network = Additive()
    first, second = explain(artifact(network), [journey([1, 0, 3]), journey([2])], [0, 1])
    assert network.calls == [5 + 3]
    np.testing.assert_allclose(first.reward_K, [0.1, 0.0, 0.3], atol=1e-12)
    assert (first.reward, first.reward_without_past) == (pytest.approx(0.6), pytest.approx(0.2))

    def log_prob(count: int, channel: int) -> float:
        logits = np.array([count, 0.0])
        return float(logits[channel] - np.log(np.exp(logits).sum()))

    np.testing.assert_allclose(first.log_prob_K, [log_prob(3, 0) - log_prob(2, 0)] * 3)
    np.testing.assert_allclose(second.log_prob_K, [log_prob(1, 1) - log_prob(0, 1)])
    assert second.log_prob == pytest.approx(log_prob(1, 1))
    assert second.log_prob_without_past == pytest.approx(log_prob(0, 1))


def test_a_negative_gain_counts_as_zero() -> None:
    box = artifact(Additive())
    box.encoder = SimpleNamespace(unreward=lambda reward, cost: reward - 0.15)
    (why,) = explain(box, [journey([2])], [0])
    assert (why.reward, why.reward_without_past) == (pytest.approx(0.05), 0.0)


def test_without_touchpoints_a_window_equals_that_of_a_new_user() -> None:
    window = journey([1, 0, 3])
    alone = journey([])
    assert without_past(window, SPEC) == {**alone, "timestamp": window["timestamp"]}
    while places := touchpoints(window):
        window = without(window, places[0], SPEC)
    assert window == {**alone, "timestamp": window["timestamp"]}


def test_a_removed_touchpoint_takes_its_context_and_pause_along() -> None:
    window = without(journey([1, 2, 3]), 2, SPEC)
    assert window["prev_channel"] == [None, "search", "search"]
    assert window["prev_timestamp"] == [None, 0, 2 * MINUTE]
    assert window["prev_click"] == [0.0, 1, 3]
    assert window["context"]["hour"] == [0.0, 2.0, 99.0], "the context of touchpoint 1 is removed"
    batch = WindowBatch.from_instances([window], SPEC)
    np.testing.assert_allclose(batch.time["recency_hours"][1:], [2 / 60, 1 / 60])


def test_a_window_that_begins_midway_still_does_without_a_touchpoint() -> None:
    window = journey([1, 2, 3, 4, 5])
    assert window["prev_channel"] == ["video", "search", "video", "search"]
    assert without(window, 0, SPEC)["context"]["hour"] == window["context"]["hour"][1:]
    assert without(window, 1, SPEC)["context"]["hour"] == window["context"]["hour"][1:]
    assert without(window, 3, SPEC)["context"]["hour"] == [2.0, 3.0, 99.0]
    assert None not in without(window, 2, SPEC)["prev_channel"]


def test_a_malformed_window_is_reported() -> None:
    with pytest.raises(WindowError, match="instance 1"):
        explain(artifact(Additive()), [journey([1]), {**journey([1]), "prev_click": []}], [0, 0])


@given(clicks=st.lists(st.integers(0, 5), max_size=6), length=st.integers(1, 5))
def test_every_window_has_one_attribution_for_each_touchpoint_in_it(clicks: list[float], length: int) -> None:
    spec = DatasetSpec.from_dict({**SPEC.to_dict(), "window": length})
    window = journey(clicks, spec)
    (why,) = explain(artifact(Additive(), spec), [window], [1])
    seen = clicks[-length:]
    assert len(why.reward_K) == len(touchpoints(window)) == len(seen)
    np.testing.assert_allclose(why.reward_K, [0.1 * click for click in seen], atol=1e-12)
    assert why.reward_without_past == pytest.approx(0.2)
