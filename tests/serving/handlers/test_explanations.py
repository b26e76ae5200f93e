"""Tests that explanations in a batch neither delay nor change a decision."""

import json
from typing import Any

import numpy as np
import pytest

from mtorl.artifact.explanation import METHOD
from mtorl.window.window import WindowBatch
from serving.handlers.protocol import MAX_EXPLAINED
from tests.serving.handler_fixtures import Network, ask, item, made, v1, v2


class Clicks(Network):
    """A network that predicts the reward 0.05, plus 0.1 for each past click."""

    def predict(self, batch: WindowBatch) -> Any:
        logits, reward, cost = super().predict(batch)
        clicks_B = np.bincount(batch.row_N, batch.prev_outcomes["click"], minlength=len(batch))
        return logits, reward + 0.1 * clicks_B[:, None], cost, np.full((len(batch), 3, 2), [0.05, 0.1])


def test_an_explanation_explains_the_channel_of_the_decision() -> None:
    handler = made(Clicks().predict)
    (decided, explained), context = ask(handler, v1(item(u=0.9)), v1(item(u=0.9), None), explain=[1])
    decision, (why, bad) = decided["predictions"][0], explained["explanations"]
    assert why == {
        "channel": decision["channel"],
        "utility": decision["utility"],
        "utility_terms": pytest.approx({"gain": 0.3, "price_times_cost": 0.02, "added": 0.04}),
        "method": METHOD,
        "expected_reward": pytest.approx(0.3),
        "log_prob": why["log_prob"],
        "without_past": {"expected_reward": pytest.approx(0.1), "log_prob": why["log_prob"]},
        "touchpoints": [
            {"channel": "search", "timestamp": 3_600_000_000, "expected_reward": pytest.approx(0.2), "log_prob": 0.0}
        ],
        "model": {"name": "challenger", "version": "abc", "digest": "abcdef"},
    }
    assert why["expected_reward"] == decision["expected_reward"] and decision["utility"] == pytest.approx(0.32)
    assert list(bad) == ["error"]
    assert context.status == {}


def test_explanations_do_not_add_forward_passes_for_decisions() -> None:
    network = Clicks()
    sizes: list[int] = []

    def predict(batch: WindowBatch) -> Any:
        sizes.append(len(batch))
        return network.predict(batch)

    (alone,), _ = ask(made(predict), v1(item(1.0), item(2.0)))
    assert sizes == [2]
    (beside, _), _ = ask(made(predict), v1(item(1.0), item(2.0)), v1(item(3.0)), explain=[1])
    assert sizes[1:] == [2, 1, 3], "decisions, the decision to explain, and its window in three variants"
    assert beside == alone


def test_explanations_in_v2_and_beside_a_readiness_probe() -> None:
    (answer, ready), _ = ask(made(), v2(json.dumps(item()), "{", request_id="7"), {"body": b""}, explain=[0, 1])
    (output,) = answer["outputs"]
    assert (answer["id"], output["name"], output["shape"]) == ("7", "explanations", [2])
    good, bad = (json.loads(text) for text in output["data"])
    assert good["method"] == METHOD
    assert "error" in bad
    assert ready["ready"] is True


def test_a_request_with_too_many_items_to_explain_is_refused() -> None:
    too_many = v1(*[item()] * (MAX_EXPLAINED + 1))
    (decided, refused), context = ask(made(), too_many, too_many, explain=[1])
    assert len(decided["predictions"]) == MAX_EXPLAINED + 1
    assert context.status == {1: 400}
    assert str(MAX_EXPLAINED) in refused["error"]


def test_a_model_that_fails_on_fewer_touchpoints_fails_only_the_explanation() -> None:
    def moody(batch: WindowBatch) -> Any:
        logits, reward, cost = Network().predict(batch)
        return logits, np.where(batch.length_B[:, None] == 1, np.nan, reward), cost

    def refusing(batch: WindowBatch) -> Any:
        if (batch.length_B == 1).any():
            raise RuntimeError("too short")
        return Network().predict(batch)

    for predict, message in ((moody, "not finite without"), (refusing, "RuntimeError: too short")):
        (decided, explained), context = ask(made(predict), v1(item()), v1(item(), None), explain=[1])
        assert "channel" in decided["predictions"][0]
        assert message in explained["explanations"][0]["error"]
        assert "None" in explained["explanations"][1]["error"]
        assert context.status == {}
