"""An arm is a model: another one is refused if the experiment names it, and said if it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.experiments import experiment
from tests.serving.router_fixtures import Harness, decision, instance, only, run, sample

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


def model(digest: str) -> dict[str, Any]:
    return decision(model={"name": "m", "version": digest[:4], "digest": digest})


def arms(endpoint: str, **digests: str) -> list[dict[str, Any]]:
    return [{"name": n, "weight": 0.5, "endpoint": endpoint, "model_digest": d} for n, d in digests.items()]


def rewrite(h: Harness, **changes: Any) -> None:
    """Put another experiment file in the place of the router's."""
    endpoint = only(h.router.live).arm("incumbent").endpoint
    draft = h.folder / "experiment.draft"
    draft.write_text(yaml.safe_dump(experiment(endpoint, **changes)))
    draft.replace(h.folder / "experiment.yaml")


def test_swapped_endpoints_log_nothing_under_the_wrong_arm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(h: Harness) -> None:
        endpoint = only(h.router.live).arm("incumbent").endpoint
        h.arm.mode = lambda _: model("aaaa1111")  # what either arm is asked at, after a swap
        rewrite(h, salt="another", arms=arms(endpoint, incumbent="aaaa", challenger="bbbb"))
        await h.until(lambda: only(h.router.live).arm("challenger").model_digest)
        answers = await h.predict(*(instance(f"u{i}") for i in range(50)))
        for answer in answers:
            assert (answer["fallback_reason"] == "model_error") == (answer["arm"] == "challenger")
        assert {r["arm"] for r in h.records() if r["model_digest"] == "aaaa1111"} == {"incumbent"}
        assert h.balance("challenger").reserved == 0 < h.balance("incumbent").reserved
        assert h.router.health.parts["test/challenger"].endswith("WrongModel")
        assert h.router.health.parts["test/incumbent"] == "ok"
        assert "model aaaa1111 answers, and the experiment names bbbb for challenger" in caplog.text

    run(scenario, tmp_path)


def test_a_wrong_model_is_found_without_traffic(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        endpoint = only(h.router.live).arm("incumbent").endpoint
        rewrite(h, arms=arms(f"{endpoint}/v1/models/x:predict", incumbent="d1", challenger="other"), stage="shadow")
        await h.until(lambda: h.router.health.parts.get("test/challenger", "").endswith("WrongModel"))
        await h.until(lambda: sample("mtorl_arm_silent_seconds", arm="challenger") > 0)

    run(scenario, tmp_path)


def test_a_model_that_changes_is_said_until_the_experiment_is_another(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
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
        rewrite(h, salt="another")
        await h.until(lambda: only(h.router.live).salt == "another")
        await h.predict(*map(instance, users))
        assert h.router.health.parts["test/incumbent"] == "ok"
        assert sample("mtorl_arm_model_changes_total", arm="incumbent") == changes + 1

    run(scenario, tmp_path)
