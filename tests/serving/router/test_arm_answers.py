"""An arm may be anybody's: it answers as little as a channel and whether to expose, and hears what it lacks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.records import json_schema
from serving.router.flow import arm_faults
from serving.router.flow.arm_answers import NOBODY, ArmAnswer, ArmError, identity, read_answer
from serving.router.flow.idempotency_cache import prediction_of
from tests.serving.router_fixtures import CONTEXT, Harness, decision, instance, only, run, sample

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

CHANNELS = ("search", "video", "tv")
LEAST = {"channel": "video", "expose": True}
ALLOWED_CAUSES = {"form", "error", *(field.name for field in dataclasses.fields(ArmAnswer))}


def read(candidates: tuple[str, ...] = CHANNELS, **answer: Any) -> ArmAnswer:
    return read_answer({**LEAST, **answer}, CHANNELS, candidates, NOBODY)


def test_channel_and_expose_are_enough_and_the_rest_is_not_known(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = lambda _: LEAST
        (answer,) = await h.predict()
        assert (answer["channel"], answer["expose"], answer["fallback_reason"]) == ("video", True, None)
        unknown = ("propensity", "expected_reward", "expected_cost", "model")
        assert [answer[name] for name in unknown] == [None] * len(unknown)
        (record,) = h.records()
        jsonschema.Draft202012Validator(json_schema("decision")).validate(record)
        assert (record["channel_probs"], record["exposure_probs"]) == ({}, {})
        assert record["drawn_channel"] == "video" and record["model_digest"] is None and record["reserved"] == 0.05
        assert prediction_of(record) == answer

    run(scenario, tmp_path)


def test_how_far_the_model_has_the_user_from_those_it_knows_is_in_the_record_alone(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = lambda _: {**LEAST, "state_distance": 1.25}
        (answer,) = await h.predict()
        h.arm.mode = lambda _: LEAST
        await h.predict(instance("u2"))
        h.arm.mode = 500
        await h.predict(instance("u3"))
        assert [record["state_distance"] for record in h.records()] == [1.25, None, None]
        assert "state_distance" not in answer

    run(scenario, tmp_path)


def test_over_v2_what_is_not_known_is_no_number(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = lambda _: LEAST
        texts = {"user_id": "u1", "campaign_id": "c", "context": json.dumps(CONTEXT)}
        inputs = [{"name": n, "datatype": "BYTES", "shape": [1], "data": [text]} for n, text in texts.items()]
        response = await h.post("/v2/models/ads/infer", {"inputs": inputs})
        assert response.status_code == 200, response.text
        outputs = {tensor["name"]: tensor["data"] for tensor in response.json()["outputs"]}
        assert (outputs["channel"], outputs["expose"], outputs["propensity"]) == (["video"], [True], [None])

    run(scenario, tmp_path)


def test_the_item_names_user_campaign_time_context_and_candidates(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        await h.predict(instance(timestamp="2026-01-01T13:00:00+01:00"))
        ((_, item),) = h.arm.asked
        assert (item["user_id"], item["campaign_id"], item["context"]) == ("u1", "spring", CONTEXT)
        assert (item["timestamp"], item["candidates"]) == ("2026-01-01T12:00:00.000000+00:00", ["search", "video"])

    run(scenario, tmp_path)


def _v2(predictions: list[Any]) -> Any:
    data = [json.dumps(prediction) for prediction in predictions]
    return {"outputs": [{"name": "decisions", "datatype": "BYTES", "shape": [len(data)], "data": data}]}


FORMS: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "v1": ("", lambda predictions: {"predictions": predictions}),
    "v2": ("/v2/models/mine/infer", _v2),
    "a list": ("", lambda predictions: predictions),
    "one": ("", lambda predictions: predictions[0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_read_by_its_form(tmp_path: Path, form: str) -> None:
    path, body = FORMS[form]
    users = [instance()] if form == "one" else [instance(f"u{i}") for i in range(6)]

    async def scenario(h: Harness) -> None:
        h.arm.form, h.arm.mode = body, lambda item: {**LEAST, "propensity": 0.25}
        if path:
            endpoint = only(h.router.live).arm("incumbent").endpoint
            changed = (h.folder / "experiment.yaml").read_text().replace(str(endpoint), f"{endpoint}{path}")
            (h.folder / "experiment.draft").write_text(changed)
            (h.folder / "experiment.draft").replace(h.folder / "experiment.yaml")
            await h.until(lambda: str(only(h.router.live).arm("incumbent").endpoint).endswith("infer"))
        answers = await h.predict(*users)
        assert [answer["fallback_reason"] for answer in answers] == [None] * len(users)
        assert {answer["propensity"] for answer in answers} == {0.25}
        assert len(h.arm.asked) == len(users)

    run(scenario, tmp_path)


def test_a_model_is_known_by_its_answer_or_a_header_or_the_experiment_file(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = lambda _: LEAST
        assert (await h.predict())[0]["model"] == {"name": "bidder", "version": None, "digest": None}
        h.arm.headers = {"x-model-name": "ranker", "x-model-version": "7"}
        assert (await h.predict())[0]["model"] == {"name": "ranker", "version": "7", "digest": None}
        h.arm.mode = lambda _: {**LEAST, "model": {"name": "m", "digest": "d"}}
        assert (await h.predict())[0]["model"] == {"name": "m", "version": "7", "digest": "d"}

    arms = [{"name": n, "weight": 0.5, "model_name": "bidder"} for n in ("incumbent", "challenger")]
    run(scenario, tmp_path, changes={"arms": arms})


def test_a_fault_is_the_same_sentence_in_log_health_and_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(h: Harness) -> None:
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
        assert health() == sentence  # others may still hear it
        h.arm.mode = 500
        await h.predict(instance(), instance(same_arm))
        assert "HTTP 500" in str(health()) and counted("status") == before["status"] + 2
        h.arm.mode = "ok"
        monkeypatch.setattr(arm_faults, "SECONDS", 0.0)
        await h.predict()
        assert health() is None

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"expose": None}, "expose: expected true or false, got None"),
        ({"propensity": 0}, "propensity: video was chosen, so its probability is above 0"),
        ({"propensity": 1.2}, "propensity: expected a number from 0 to 1"),
        (
            {"channel_probs": {"video": 0.5}},
            "channel_probs: those of the candidates must add up to 1, they add up to 0.5",
        ),
        ({"channel_probs": {"search": 1}}, "channel_probs: video was chosen"),
        ({"channel_probs": {"radio": 1}}, "channel_probs: unknown channel 'radio'; known: search, video, tv"),
        ({"channel_probs": [1]}, r"channel_probs: expected an object of channel and number, got \[1\]"),
        ({"channel_probs": {"video": 1}, "propensity": 0.5}, "propensity: 0.5, and channel_probs has 1 for video"),
        ({"exposure_probs": {"video": 0}}, "exposure_probs: video has 0, and expose is true"),
        ({"expected_costs": {"video": -1}}, "expected_costs.video: expected a number of at least 0, got -1"),
        ({"expected_reward": "1"}, "expected_reward: expected a number, got '1'"),
        ({"state_distance": -1}, "state_distance: expected a number of at least 0, got -1"),
        ({"model": "m"}, "model: expected an object with name, version and digest, got 'm'"),
        ({"error": "no such user"}, "the arm has an error: no such user"),
    ],
)
def test_every_fault_is_a_sentence_and_has_a_cause(answer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ArmError, match=sentence) as caught:
        read(**answer)
    assert caught.value.cause in ALLOWED_CAUSES and sentence.startswith((caught.value.cause, "the arm has an error"))


def test_probabilities_are_those_of_all_candidates_or_of_the_chosen_channel() -> None:
    assert read(propensity=0.4).channel_probs == {"video": 0.4}
    both = read(channel_probs={"video": 0.25, "search": 0.75, "tv": 0}, candidates=("search", "video"))
    assert (both.propensity, list(both.channel_probs.items())) == (0.25, [("search", 0.75), ("video", 0.25)])
    with pytest.raises(ArmError, match=r"add up to 0\.75"):  # the rest is on a channel that is not on offer
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
def test_whatever_an_arm_answers_is_a_decision_or_a_sentence(answer: dict[str, Any]) -> None:
    try:
        found = read_answer({**LEAST, **answer}, CHANNELS, CHANNELS, NOBODY)
    except ArmError as error:
        assert str(error) and error.cause in ALLOWED_CAUSES  # a label: few, whatever an arm answers
        return
    assert found.channel in CHANNELS and isinstance(found.expose, bool)
    assert found.propensity is None or 0 < found.propensity <= 1
    assert not found.channel_probs or found.channel_probs[found.channel] == pytest.approx(found.propensity)
    identity(found.model)
