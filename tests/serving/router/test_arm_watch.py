"""An arm that does not answer is noticed, also if no traffic reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from serving.router.flow import arm_watch
from tests.experiments import experiment
from tests.serving.router_fixtures import Harness, instance, only, run, sample

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


def _write(h: Harness, **changes: object) -> None:
    endpoint = only(h.router.live).arm("incumbent").endpoint
    draft = h.folder / "experiment.draft"
    draft.write_text(yaml.safe_dump(experiment(endpoint, **changes)))
    draft.replace(h.folder / "experiment.yaml")


def test_a_new_file_that_names_a_wrong_host_is_in_force_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(h: Harness) -> None:
        assert h.router.health.parts["test/challenger"] == "ok"
        good = only(h.router.live).arm("incumbent").endpoint
        arms = [
            {"name": "incumbent", "weight": 0.5, "endpoint": good},
            {"name": "challenger", "weight": 0.5, "endpoint": "http://127.0.0.1:9"},  # nobody there
        ]
        _write(h, arms=arms, stage="shadow")
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
        ready = await h.client.get("/health/ready")
        assert ready.status_code == 200  # the incumbent decides
        assert ready.json()["parts"]["test/challenger"].startswith("no answer for ")
        assert ready.json()["parts"]["test/incumbent"] == "ok"
        assert "challenger (http://127.0.0.1:9/v1/models/challenger:predict) has not answered for" in caplog.text
        _write(h, stage="shadow")  # mended: found at once, without traffic
        await h.until(lambda: h.router.health.parts.get("test/challenger") == "ok")
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
        assert not h.arm.asked

    run(scenario, tmp_path)


def test_an_arm_that_nobody_asks_is_looked_at_and_one_that_left_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm_watch, "LOOK_SECONDS", 0.5)

    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
        first = sample("mtorl_arm_silent_seconds", arm="challenger")
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > first + 1)
        h.arm.mode = "ok"
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") == 0)
        h.arm.mode = 500
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)
        arms = [{"name": n, "weight": 0.5, "endpoint": "http://127.0.0.1:9"} for n in ("incumbent", "second")]
        _write(h, arms=arms)
        await h.until(lambda: "test/second" in h.router.health.parts)
        await h.until(lambda: "test/challenger" not in h.router.health.parts)
        assert sample("mtorl_arm_silent_seconds", arm="challenger") == 0

    run(scenario, tmp_path)


def test_decisions_that_ask_an_arm_spare_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def scenario(h: Harness) -> None:
        ask = h.router._arms.ask

        def count(experiment: Experiment, arm: Arm, items: Any, seconds: float, spans: Any = ()) -> object:
            asked.append(arm.url)
            return ask(experiment, arm, items, seconds, spans)

        monkeypatch.setattr(h.router._arms, "ask", count)
        await h.predict(*(instance(f"u{i}") for i in range(20)))  # both arms
        decisions = len(asked)
        await h.router._arm_watch.look()
        assert len(asked) == decisions

    run(scenario, tmp_path)
