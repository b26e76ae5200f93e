"""What the caller's own logic would do is an arm, and the default action; it is paid for like anything else."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mtorl.log.records import json_schema
from serving.ledger import LedgerUnavailable
from serving.router.flow.idempotency_cache import prediction_of
from tests.experiments import experiment
from tests.serving.router.test_inner_faults import FAULTS
from tests.serving.router_fixtures import CONTEXT, SHORT_DEADLINE, Harness, decision, full_disk, instance, only, run

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

SEARCH = {"channel": "search", "expose": True, "propensity": 0.4}
ARMS = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]


def of_arm(h: Harness, arm: str, count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Requests of users of an arm."""
    users = [f"u{i}" for i in range(200) if only(h.router.live).arm_of(f"u{i}")[0] == arm]
    return [instance(user, **changes) for user in users[:count]]


def test_users_of_the_arm_get_what_the_request_says(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (shown,) = await h.predict(*of_arm(h, "incumbent", baseline=SEARCH))
        assert (shown["channel"], shown["expose"], shown["propensity"]) == ("search", True, 0.4)
        assert (shown["fallback_reason"], shown["expected_reward"]) == (None, None)
        assert shown["model"] == {"name": "baseline", "version": None, "digest": None}
        assert h.balance("incumbent").reserved == 0.6
        await h.outcome(shown["decision_id"], "cost", 0.2)
        assert (h.balance("incumbent").reserved, h.balance("incumbent").spent) == (0.0, 0.2)
        (kept,) = await h.predict(*of_arm(h, "incumbent", baseline={"channel": "video", "expose": False}))
        assert (kept["channel"], kept["expose"], kept["propensity"]) == ("video", False, None)
        first, second = h.records()
        for record in (first, second):
            jsonschema.Draft202012Validator(json_schema("decision")).validate(record)
        assert [prediction_of(record) for record in (first, second)] == [shown, kept]
        assert (first["baseline"], first["channel_probs"], first["exposure_probs"]) == (SEARCH, {"search": 0.4}, {})
        assert second["baseline"] == {"channel": "video", "expose": False, "propensity": None}
        assert (second["drawn_channel"], second["channel_probs"]) == ("video", {})
        assert second["model_name"] == "baseline"  # the verdict tells it from a model that served the arm before
        assert not h.arm.asked

    run(scenario, tmp_path, changes={"arms": ARMS})


def test_a_baseline_that_is_certain_leaves_all_probabilities_known(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        await h.predict(*of_arm(h, "incumbent", baseline={**SEARCH, "propensity": 1}))
        (record,) = h.records()
        assert record["channel_probs"] == {"search": 1.0, "video": 0.0}
        assert record["exposure_probs"]["search"] == 1.0

    run(scenario, tmp_path, changes={"arms": ARMS})


def test_without_its_baseline_the_arm_shows_nothing_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict(*of_arm(h, "incumbent"))
        assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("no_baseline", "search", False)
        assert h.holds_nothing() and "has no baseline: send it with each request" in caplog.text
        assert h.records()[0]["baseline"] is None

    run(scenario, tmp_path, changes={"arms": ARMS})


def test_it_needs_no_feature_store(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.features.fault = OSError("gone")
        (answer,) = await h.predict(*of_arm(h, "incumbent", baseline=SEARCH))
        assert (answer["fallback_reason"], answer["expose"]) == (None, True)
        assert h.records()[0]["features"] is None and h.records()[0]["feature_hash"] is None

    run(scenario, tmp_path, changes={"arms": ARMS})


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_breaks_inside_the_callers_own_logic_decides(tmp_path: Path, fault: str) -> None:
    reason, strike = FAULTS[fault]

    async def scenario(h: Harness) -> None:
        if asyncio.iscoroutine(waits := strike(h)):
            await waits
        (answer,) = await h.predict(instance(baseline=SEARCH))
        assert (answer["channel"], answer["propensity"], answer["fallback_reason"]) == ("search", 0.4, reason)
        assert answer["expose"] == (reason != "ledger") == (answer["reservation_id"] is not None)
        (record,) = h.records()
        jsonschema.Draft202012Validator(json_schema("decision")).validate(record)
        assert record["reserved"] == (0.6 if answer["expose"] else 0.0) and record["baseline"] == SEARCH
        assert record["drawn_channel"] == ("video" if reason == "ledger" else None)
        if answer["expose"]:
            assert h.balance(answer["arm"]).reserved == 0.6
        elif fault != "ledger is missing":
            await h.until(h.holds_nothing)

    run(scenario, tmp_path, deadline_ms=SHORT_DEADLINE if "slow" in fault or "locked" in fault else 20_000)


def test_a_ledger_that_fails_for_the_default_action_means_no_exposure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(h: Harness) -> None:
        def away(wanted: Any) -> Any:
            raise LedgerUnavailable("away")

        h.arm.mode = 500
        with monkeypatch.context() as patch:
            patch.setattr(h.ledger, "reserve_all", away)
            (answer,) = await h.predict(instance(baseline=SEARCH))
        assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("ledger", "search", False)
        await h.until(h.holds_nothing)

    run(scenario, tmp_path)


def test_a_log_that_fails_withdraws_the_default_action_and_its_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, *data: full_disk(file, data))
            (answer,) = await h.predict(instance(baseline=SEARCH))
            assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("log", "search", False)
            await h.until(h.holds_nothing)
        await h.until(lambda: len(h.records()) == 1)
        assert h.records()[0]["withdrawn"] and not h.records()[0]["expose"]

    run(scenario, tmp_path)


def test_the_default_action_spends_no_more_than_there_is(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        answers = await h.predict(*(instance(f"u{i}", baseline=SEARCH) for i in range(40)))
        assert {answer["fallback_reason"] for answer in answers} == {"model_error"}
        for arm in ("incumbent", "challenger"):
            of_it = [answer for answer in answers if answer["arm"] == arm]
            assert sum(answer["expose"] for answer in of_it) == 2 < len(of_it)  # of a limit of 1.5
            assert all(answer["expose"] != answer["budget_exhausted"] for answer in of_it)
            assert h.balance(arm).reserved <= h.balance(arm).limit
        refused = next(record for record in h.records() if record["budget_exhausted"])
        assert refused["refused_until"] is not None and refused["drawn_channel"] is None

    budgets = [{"campaign": "*", "channel": "*", "amount": 3.0, "period": "day", "pacing": None}]
    run(scenario, tmp_path, changes={"budgets": budgets})


def test_where_no_budget_is_for_the_channel_nothing_is_shown(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict(*of_arm(h, "incumbent", baseline=SEARCH))
        assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("no_account", "search", False)

    only_video = [{"campaign": "*", "channel": "video", "amount": 10.0}]
    run(scenario, tmp_path, changes={"arms": ARMS, "budgets": only_video})


def test_the_kill_switch_and_a_crash_leave_it_in_force(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    async def before(h: Harness) -> None:
        (challenged,) = of_arm(h, "challenger", baseline=SEARCH)
        assert (await h.predict(challenged))[0]["channel"] == "video"
        endpoint = only(h.router.live).arm("challenger").endpoint
        switched = experiment(str(endpoint), arms=ARMS, enabled=False)
        (h.folder / "experiment.draft").write_text(yaml.safe_dump(switched))
        (h.folder / "experiment.draft").replace(h.folder / "experiment.yaml")
        await h.until(lambda: not only(h.router.live).enabled)
        asked = len(h.arm.asked)
        given.extend(await h.predict({**challenged, "request_id": "r1"}))
        assert (given[0]["arm"], given[0]["channel"], given[0]["expose"]) == ("incumbent", "search", True)
        assert len(h.arm.asked) == asked

    async def after(h: Harness) -> None:
        user = h.records()[-1]["user_id"]
        assert await h.predict(instance(user, request_id="r1", baseline=SEARCH)) == given

    run(before, tmp_path, changes={"arms": ARMS})
    run(after, tmp_path, changes={"arms": ARMS, "enabled": False})


@pytest.mark.parametrize("other", [None, {**SEARCH, "expose": False}, {**SEARCH, "propensity": None}])
def test_another_baseline_is_another_request(tmp_path: Path, other: Any) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1", baseline=SEARCH))
        body = {"instances": [instance(request_id="r1", baseline=other)]}
        response = await h.post("/v1/models/ads:predict", body)
        assert response.status_code == 409 and "said something else" in response.json()["error"]
        assert await h.predict(instance(request_id="r1", baseline=SEARCH)) == [first]

    run(scenario, tmp_path)


def test_no_baseline_and_null_are_the_same_request(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        await h.predict(instance(request_id="r1"), instance("u2", request_id="r1", baseline=None))
        assert len({record["request_hash"] for record in h.records()}) == 1

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("search", "baseline: expected a mapping"),
        ({}, "baseline: missing channel, expose"),
        ({**SEARCH, "channel": "tv"}, "baseline.channel: 'tv' is not one of search, video"),
        ({**SEARCH, "expose": 1}, "baseline.expose: expected true or false"),
        ({**SEARCH, "propensity": 0}, "baseline.propensity: expected a number above 0"),
        ({**SEARCH, "propensity": 1.5}, "baseline.propensity: expected a number of at most 1"),
        ({**SEARCH, "price": 1}, "baseline: unknown price; known: channel, expose, propensity"),
    ],
)
def test_a_bad_baseline_is_a_400_that_says_where(ask: Any, baseline: Any, message: str) -> None:
    response = ask("/v1/models/ads:predict", {"instances": [instance(baseline=baseline)]})
    assert response.status_code == 400 and message in response.json()["error"], response.text


def test_over_v2_a_baseline_is_json_text(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (asked,) = of_arm(h, "incumbent", baseline=SEARCH)
        texts = {"user_id": asked["user_id"], "campaign_id": "c", "context": json.dumps(CONTEXT)}
        texts["baseline"] = json.dumps(SEARCH)
        inputs = [{"name": n, "datatype": "BYTES", "shape": [1], "data": [text]} for n, text in texts.items()]
        response = await h.post("/v2/models/ads/infer", {"inputs": inputs})
        outputs = {tensor["name"]: tensor["data"] for tensor in response.json()["outputs"]}
        assert (outputs["channel"], outputs["expose"], outputs["propensity"]) == (["search"], [True], [0.4])

    run(scenario, tmp_path, changes={"arms": ARMS})


def test_a_challenger_that_recovers_is_asked_again(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        assert (await h.predict(instance(baseline=SEARCH)))[0]["channel"] == "search"
        h.arm.mode = lambda _: decision()
        assert (await h.predict(instance(baseline=SEARCH)))[0]["channel"] == "video"

    run(scenario, tmp_path)
