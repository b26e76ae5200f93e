"""Tests of reading an arm's answer, in which only channel and expose are required."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.router.flow import arms as asked_arms
from serving.router.flow.arm_client import ArmError
from serving.router.flow.arms import NOBODY, ArmAnswer, identity, read_answer
from serving.router.flow.idempotency_cache import prediction_of
from tests.serving.router_fixtures import Harness, arms, decision, instance, only, sample, with_router

CHANNELS = ("search", "video", "tv")
LEAST = {"channel": "video", "expose": True}
ALLOWED_CAUSES = {"form", "error", *(field.name for field in dataclasses.fields(ArmAnswer))}


def read(candidates: tuple[str, ...] = CHANNELS, **answer: Any) -> ArmAnswer:
    return read_answer({**LEAST, **answer}, CHANNELS, candidates, NOBODY)


@with_router()
async def test_channel_and_expose_suffice_and_other_fields_are_unknown(h: Harness) -> None:
    h.arm.mode = lambda _: {**LEAST, "state_distance": 1.25}
    (answer,) = await h.predict()
    assert (answer["channel"], answer["expose"], answer["fallback_reason"]) == ("video", True, None)
    unknown = ("propensity", "expected_reward", "expected_cost", "model")
    assert [answer[name] for name in unknown] == [None] * len(unknown)
    (record,) = h.records()
    assert record["state_distance"] == 1.25
    assert (record["channel_probs"], record["exposure_probs"]) == ({}, {})
    assert record["drawn_channel"] == "video" and record["model_digest"] is None and record["reserved"] == 0.05
    assert prediction_of(record) == answer


FORMS: list[tuple[int, Callable[[list[Any]], Any]]] = [
    (6, lambda predictions: {"predictions": predictions}),
    (6, lambda predictions: {"outputs": [{"data": [*map(json.dumps, predictions)]}]}),
    (6, lambda predictions: predictions),
    (1, lambda predictions: predictions[0]),
]


@pytest.mark.parametrize("path", ["", "/v2/models/mine/infer"], ids=["asked by v1", "asked by v2"])
@with_router()
async def test_each_form_of_an_answer_is_accepted(h: Harness, path: str) -> None:
    await h.change(arms=arms(endpoint=f"{h.arm.url}{path}"), salt="another")
    h.arm.mode = lambda item: {**LEAST, "propensity": 0.25}
    for count, h.arm.form in FORMS:
        asked = len(h.arm.asked)
        answers = await h.predict(*(instance(f"u{i}") for i in range(count)))
        assert {(answer["fallback_reason"], answer["propensity"]) for answer in answers} == {(None, 0.25)}
        assert len(h.arm.asked) == asked + count


@with_router(changes={"arms": arms(model_name="bidder")})
async def test_the_model_comes_from_the_answer_a_header_or_the_experiment_file(h: Harness) -> None:
    h.arm.mode = lambda _: LEAST
    assert (await h.predict())[0]["model"] == {"name": "bidder", "version": None, "digest": None}
    h.arm.headers = {"x-model-name": "ranker", "x-model-version": "7"}
    assert (await h.predict())[0]["model"] == {"name": "ranker", "version": "7", "digest": None}
    h.arm.mode = lambda _: {**LEAST, "model": {"name": "m", "digest": "d", "stage": 3}}
    assert (await h.predict())[0]["model"] == {"name": "m", "version": "7", "digest": "d"}


@with_router()
async def test_a_fault_has_the_same_message_in_log_and_health_and_is_counted(
    h: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = only(h.router.live).arm_of("u1")[0]

    def counted(cause: str) -> float:
        return sample("mtorl_arm_answer_faults_total", arm=arm, cause=cause)

    before = {cause: counted(cause) for cause in ("channel", "status")}

    def health() -> str | None:
        return h.router.health.parts.get(f"test/{arm}'s answers")

    assert health() is None
    h.arm.mode = lambda item: decision(channel="tv" if item["user_id"] == "u1" else "video")
    same_arm = next(f"v{n}" for n in range(99) if only(h.router.live).arm_of(f"v{n}")[0] == arm)
    answer, good = await h.predict(instance(), instance(same_arm))
    assert answer["fallback_reason"] == "model_error" and good["fallback_reason"] is None
    sentence = "channel: 'tv' is not on offer; answer one of search, video"
    (record,) = [record for record in caplog.records if sentence in record.getMessage()]
    assert (record.arm, record.cause, record.decision_id) == (arm, "channel", answer["decision_id"])  # type: ignore[attr-defined]
    assert health() == sentence and counted("channel") == before["channel"] + 1
    h.arm.mode = "ok"
    await h.predict()
    assert health() == sentence  # other requests may still get this fault
    h.arm.mode = 500
    await h.predict(instance(), instance(same_arm))
    assert "HTTP 500" in str(health()) and counted("status") == before["status"] + 2
    h.arm.mode = "ok"
    monkeypatch.setattr(asked_arms, "FAULT_SECONDS", 0.0)
    await h.predict()
    assert health() is None


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"channel": ["video"]}, "channel"),
        ({"expose": 1}, "expose"),
        ({"propensity": 0}, "propensity"),
        ({"propensity": 1.2}, "propensity"),
        ({"channel_probs": {"video": 0.5}}, "channel_probs"),
        ({"channel_probs": {"search": 1}}, "channel_probs"),
        ({"channel_probs": {"radio": 1}}, "channel_probs"),
        ({"channel_probs": [1]}, "channel_probs"),
        ({"channel_probs": {"video": 1}, "propensity": 0.5}, "propensity"),
        ({"exposure_probs": {"video": 0}}, "exposure_probs"),
        ({"expected_costs": {"video": -1}}, "expected_costs"),
        ({"expected_reward": "1"}, "expected_reward"),
        ({"expected_cost": -0.1}, "expected_cost"),
        ({"expected_cost": math.inf}, "expected_cost"),
        ({"state_distance": -1}, "state_distance"),
        ({"model": {"name": 7}}, "model"),
        ({"error": "no such user"}, "error"),
    ],
)
def test_a_fault_has_its_cause(answer: dict[str, Any], cause: str) -> None:
    with pytest.raises(ArmError) as caught:
        read(**answer)
    assert caught.value.cause == cause


def test_probabilities_are_those_of_all_candidates_or_of_the_chosen_channel() -> None:
    assert read(propensity=0.4).channel_probs == {"video": 0.4}
    both = read(channel_probs={"video": 0.25, "search": 0.75, "tv": 0}, candidates=("search", "video"))
    assert (both.propensity, list(both.channel_probs.items())) == (0.25, [("search", 0.75), ("video", 0.25)])
    # The remaining probability belongs to a channel that is not a candidate.
    with pytest.raises(ArmError):
        read(channel_probs={"video": 0.75, "tv": 0.25}, candidates=("search", "video"))


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**63) | st.sampled_from([*CHANNELS, "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CHANNELS, "name"]), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(sorted(decision().keys() | {"exposure_probs", "prices", "state_distance"})), anything
    )
)
def test_any_answer_is_a_decision_or_a_fault_with_a_message(answer: dict[str, Any]) -> None:
    try:
        found = read_answer({**LEAST, **answer}, CHANNELS, CHANNELS, NOBODY)
    except ArmError as error:
        # The cause is a metric's label, so it must have few values.
        assert str(error) and error.cause in ALLOWED_CAUSES
        return
    assert found.channel in CHANNELS and isinstance(found.expose, bool)
    assert found.propensity is None or 0 < found.propensity <= 1
    assert not found.channel_probs or found.channel_probs[found.channel] == pytest.approx(found.propensity)
    identity(found.model)
