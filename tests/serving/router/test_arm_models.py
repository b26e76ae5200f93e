"""An arm is a model: another one is refused if the experiment names it, and said if it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.router_fixtures import Harness, decision, instance, only, sample, with_router


def model(digest: str) -> dict[str, Any]:
    return decision(model={"name": "m", "version": digest[:4], "digest": digest})


def arms(**digests: str) -> list[dict[str, Any]]:
    return [{"name": name, "weight": 0.5, "model_digest": digest} for name, digest in digests.items()]


@with_router()
async def test_swapped_endpoints_log_nothing_under_the_wrong_arm(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    h.arm.mode = lambda _: model("aaaa1111")  # the answer for either arm, after a swap
    h.put(salt="another", arms=arms(incumbent="aaaa", challenger="bbbb"))
    await h.until(lambda: only(h.router.live).arm("challenger").model_digest)
    answers = await h.predict(*(instance(f"u{i}") for i in range(50)))
    for answer in answers:
        assert (answer["fallback_reason"] == "model_error") == (answer["arm"] == "challenger")
    assert {r["arm"] for r in h.records() if r["model_digest"] == "aaaa1111"} == {"incumbent"}
    assert h.balance("challenger").reserved == 0 < h.balance("incumbent").reserved
    assert h.router.health.parts["test/challenger"].endswith("WrongModel")
    assert h.router.health.parts["test/incumbent"] == "ok"
    assert "model aaaa1111" in caplog.text


@with_router()
async def test_a_wrong_model_is_found_without_traffic(h: Harness) -> None:
    h.put(arms=arms(incumbent="d1", challenger="other"), stage="shadow")
    await h.until(lambda: h.router.health.parts.get("test/challenger", "").endswith("WrongModel"))
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)


@with_router()
async def test_a_model_that_changes_is_said_until_the_experiment_is_another(h: Harness) -> None:
    changes = sample("mtorl_arm_model_changes_total", arm="incumbent")
    users = [user for user in map(str, range(40)) if only(h.router.live).arm_of(user)[0] == "incumbent"]
    await h.predict(instance(users[0]))
    assert h.router.health.parts["test/incumbent"] == "ok"
    h.arm.mode = lambda _: model("d2")
    (answer,) = await h.predict(instance(users[0]))
    assert answer["expose"] and answer["model"]["digest"] == "d2"
    assert sample("mtorl_arm_model_changes_total", arm="incumbent") == changes + 1
    said = h.router.health.parts["test/incumbent"]
    assert said.startswith("model d2 since") and "d1 before" in said
    h.put(salt="another")
    await h.until(lambda: only(h.router.live).salt == "another")
    await h.predict(*map(instance, users))
    assert h.router.health.parts["test/incumbent"] == "ok"
    assert sample("mtorl_arm_model_changes_total", arm="incumbent") == changes + 1
