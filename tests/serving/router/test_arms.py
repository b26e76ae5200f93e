import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from serving.router.flow import arms as asked_arms
from tests.serving.router_fixtures import Harness, arms, decision, instance, only, sample, with_router
from tests.waiting import until


@with_router()
async def test_a_file_with_a_wrong_host_is_applied_and_reported(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    assert h.router.health.parts["test/challenger"] == "ok"
    incumbent, challenger = arms()
    h.put(arms=[incumbent, {**challenger, "endpoint": "http://127.0.0.1:9"}], stage="shadow")
    await until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
    ready = await h.client.get("/health/ready")
    assert ready.status_code == 200  # the incumbent decides
    assert ready.json()["parts"]["test/challenger"].startswith("no answer for ")
    assert ready.json()["parts"]["test/incumbent"] == "ok"
    assert "http://127.0.0.1:9/v1/models/challenger:predict" in caplog.text
    h.put(stage="shadow")  # corrected: noticed at once, without traffic
    await until(lambda: h.router.health.parts.get("test/challenger") == "ok")
    await until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
    assert not h.arm.asked


@with_router()
async def test_an_idle_arm_is_probed_and_a_removed_arm_forgotten(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_arms, "PROBE_SECONDS", 0.5)
    h.arm.mode = 500
    await until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 1)
    h.arm.mode = "ok"
    await until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
    h.arm.mode = 500
    await until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
    h.put(arms=[{"name": n, "weight": 0.5, "endpoint": "http://127.0.0.1:9"} for n in ("incumbent", "second")])
    await until(lambda: "test/second" in h.router.health.parts)
    await until(lambda: "test/challenger" not in h.router.health.parts)
    assert sample("mtorl_arm_silent_seconds", arm="challenger") == 0


@with_router()
async def test_probes_that_hang_do_not_delay_the_kill_switch(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_arms, "PROBE_SECONDS", 0.0)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # shared with the rest of the housekeeping
    monkeypatch.setattr(asked_arms, "_PATIENCE_SECONDS", 600.0)
    h.arm.mode = "hold"
    probes = asyncio.create_task(h.router._arm_watch.probe())
    h.put(enabled=False)
    await until(lambda: not only(h.router.live).enabled)
    h.arm.release.set()
    await probes


@with_router()
async def test_an_arm_that_answers_decisions_is_not_probed(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    predict = h.router._arms.predict

    def count(experiment: Experiment, arm: Arm, items: Any, seconds: float, spans: Any = ()) -> object:
        asked.append(arm.url)
        return predict(experiment, arm, items, seconds, spans)

    monkeypatch.setattr(h.router._arms, "predict", count)
    await h.predict(*(instance(f"u{i}") for i in range(20)))  # both arms
    decisions = len(asked)
    await h.router._arm_watch.probe()
    assert len(asked) == decisions


def model(digest: str) -> dict[str, Any]:
    return decision(model={"name": "m", "version": digest[:4], "digest": digest})


def naming(**digests: str) -> list[dict[str, Any]]:
    return [{"name": name, "weight": 0.5, "model_digest": digest} for name, digest in digests.items()]


@with_router()
async def test_swapped_endpoints_log_nothing_under_the_wrong_arm(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    # Both arms answer with the incumbent's model, as if the challenger's endpoint were wrong.
    h.arm.mode = lambda _: model("aaaa1111")
    h.put(salt="another", arms=naming(incumbent="aaaa", challenger="bbbb"))
    await until(lambda: only(h.router.live).arm("challenger").model_digest)
    answers = await h.predict(*(instance(f"u{i}") for i in range(50)))
    for answer in answers:
        assert (answer["fallback_reason"] == "model_error") == (answer["arm"] == "challenger")
    assert {r["arm"] for r in h.records() if r["model_digest"] == "aaaa1111"} == {"incumbent"}
    assert h.balance("challenger").reserved == 0 < h.balance("incumbent").reserved
    assert h.router.health.parts["test/challenger"].endswith("WrongModel")
    assert h.router.health.parts["test/incumbent"] == "ok"
    assert "model aaaa1111" in caplog.text


@with_router()
async def test_a_model_change_is_reported_until_the_experiment_changes(h: Harness) -> None:
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
    await until(lambda: only(h.router.live).salt == "another")
    await h.predict(*map(instance, users))
    assert h.router.health.parts["test/incumbent"] == "ok"
    assert sample("mtorl_arm_model_changes_total", arm="incumbent") == changes + 1
