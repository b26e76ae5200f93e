import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serving.arm_check import check_arm
from serving.messages import NO_REPLAY
from tests.serving.router_fixtures import SPEC, FakeArm, decision

LEAST = {"channel": "search", "expose": True}


def checked(mode: Any, form: Callable[[list[Any]], Any] | None = None) -> list[str]:
    async def scenario() -> list[str]:
        arm = FakeArm()
        arm.mode, arm.form = mode, form or arm.form
        endpoint = await arm.start()
        try:
            return [str(finding) for finding in await asyncio.to_thread(check_arm, endpoint, SPEC)]
        finally:
            await arm.stop()

    return asyncio.run(scenario())


def first_candidate(item: dict[str, Any]) -> dict[str, Any]:
    return {**LEAST, "channel": item["candidates"][0]}


def complete(item: dict[str, Any]) -> dict[str, Any]:
    channel = item["candidates"][-1]
    probs = {name: float(name == channel) for name in SPEC.channels}
    shows = dict.fromkeys(SPEC.channels, 1.0)
    return decision(channel=channel, channel_probs=probs, propensity=1.0, exposure_probs=shows)


def test_a_missing_optional_field_is_a_note_and_no_fault() -> None:
    assert checked(complete) == []
    found, lacks = checked(first_candidate), ("propensity", "exposure_probs", "expected_reward", "model")
    assert all(text.startswith(f"note   no {name}") for text, name in zip(found, lacks, strict=True)), found


@pytest.mark.parametrize(
    ("mode", "form", "message"),
    [
        (500, None, "HTTP 500"),
        (b"<html>", None, "expected JSON"),
        (lambda _: LEAST, None, "candidates ['video']: channel: 'search' is not on offer; answer one of video"),
        (lambda _: {"channel": "search"}, None, "an ordinary item: missing field 'expose'"),
        (first_candidate, lambda answers: answers[0], "several items in one call, as under load: expected 3 answers"),
        (
            lambda item: {"error": "no such user"} if "x" * 240 in item["user_id"] else first_candidate(item),
            None,
            "an odd user: the arm has an error: no such user",
        ),
    ],
    ids=["status", "body", "offer", "expose", "one at a time", "odd user"],
)
def test_an_answer_that_causes_the_default_action_is_a_fault(mode: Any, form: Any, message: str) -> None:
    found = checked(mode, form)
    assert found[0].startswith("fault") and any(message in text for text in found), found


def test_a_policy_that_can_not_be_replayed_is_noted() -> None:
    turn = iter(range(1000))

    def changing(item: dict[str, Any]) -> dict[str, Any]:
        return {**complete(item), "expose": True} if next(turn) % 2 else first_candidate(item)

    assert any(NO_REPLAY() in text for text in checked(changing))
