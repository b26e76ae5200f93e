"""An arm that does not answer is noticed, also if no traffic reaches it."""

from __future__ import annotations

from typing import Any

import pytest

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from serving.router.flow import arm_watch
from tests.serving.router_fixtures import Harness, arms, instance, sample, with_router


@with_router()
async def test_a_new_file_that_names_a_wrong_host_is_in_force_and_says_so(
    h: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    assert h.router.health.parts["test/challenger"] == "ok"
    incumbent, challenger = arms()
    h.put(arms=[incumbent, {**challenger, "endpoint": "http://127.0.0.1:9"}], stage="shadow")
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
    ready = await h.client.get("/health/ready")
    assert ready.status_code == 200  # the incumbent decides
    assert ready.json()["parts"]["test/challenger"].startswith("no answer for ")
    assert ready.json()["parts"]["test/incumbent"] == "ok"
    assert "http://127.0.0.1:9/v1/models/challenger:predict" in caplog.text
    h.put(stage="shadow")  # mended: found at once, without traffic
    await h.until(lambda: h.router.health.parts.get("test/challenger") == "ok")
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
    assert not h.arm.asked


@with_router()
async def test_an_arm_that_nobody_asks_is_looked_at_and_one_that_left_is_forgotten(
    h: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm_watch, "LOOK_SECONDS", 0.5)
    h.arm.mode = 500
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 1)
    h.arm.mode = "ok"
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
    h.arm.mode = 500
    await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
    h.put(arms=[{"name": n, "weight": 0.5, "endpoint": "http://127.0.0.1:9"} for n in ("incumbent", "second")])
    await h.until(lambda: "test/second" in h.router.health.parts)
    await h.until(lambda: "test/challenger" not in h.router.health.parts)
    assert sample("mtorl_arm_silent_seconds", arm="challenger") == 0


@with_router()
async def test_decisions_that_ask_an_arm_spare_the_look(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = h.router._arms.ask

    def count(experiment: Experiment, arm: Arm, items: Any, seconds: float, spans: Any = ()) -> object:
        asked.append(arm.url)
        return ask(experiment, arm, items, seconds, spans)

    monkeypatch.setattr(h.router._arms, "ask", count)
    await h.predict(*(instance(f"u{i}") for i in range(20)))  # both arms
    decisions = len(asked)
    await h.router._arm_watch.look()
    assert len(asked) == decisions
