import os
import threading
from typing import Any

import pytest

from serving.router.flow.idempotency_cache import prediction_of
from serving.router.flow.stages import Stages
from tests.serving.router_fixtures import SHORT_DEADLINE, Harness, full_disk, instance, only, with_router
from tests.waiting import until

SEARCH = {"channel": "search", "expose": True, "propensity": 0.4}
ARMS = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]


def of_arm(h: Harness, arm: str, count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    users = [f"u{i}" for i in range(200) if only(h.router.live).arm_of(f"u{i}")[0] == arm]
    return [instance(user, **changes) for user in users[:count]]


@with_router(changes={"arms": ARMS})
async def test_users_of_a_baseline_arm_get_the_baseline_of_the_request(h: Harness) -> None:
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
    assert [prediction_of(record) for record in (first, second)] == [shown, kept]
    assert (first["baseline"], first["channel_probs"], first["exposure_probs"]) == (SEARCH, {"search": 0.4}, {})
    assert second["baseline"] == {"channel": "video", "expose": False, "propensity": None}
    assert (second["drawn_channel"], second["channel_probs"]) == ("video", {})
    # The name must differ from that of a model that the arm served before.
    assert second["model_name"] == "baseline"
    assert not h.arm.asked


@with_router(changes={"arms": ARMS})
async def test_an_arm_without_baseline_exposes_nothing(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    (answer,) = await h.predict(*of_arm(h, "incumbent"))
    assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("no_baseline", "search", False)
    assert h.holds_nothing() and "no baseline" in caplog.text
    assert h.records()[0]["baseline"] is None


@with_router(changes={"arms": ARMS})
async def test_a_baseline_arm_needs_no_feature_store(h: Harness) -> None:
    h.features.fault = OSError("gone")
    (answer,) = await h.predict(*of_arm(h, "incumbent", baseline=SEARCH))
    assert (answer["fallback_reason"], answer["expose"]) == (None, True)
    assert h.records()[0]["static"] is None and h.records()[0]["feature_hash"] is None


@with_router()
async def test_a_default_action_that_is_not_logged_is_no_exposure(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    h.arm.mode = 500
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        (answer,) = await h.predict(instance(baseline=SEARCH))
        assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == ("log", "search", False)
        await until(h.holds_nothing)
    await until(lambda: len(h.records()) == 1)
    (record,) = h.records()
    assert record["withdrawn"] and not record["expose"]


@with_router(changes={"budgets": [{"campaign": "*", "channel": "*", "amount": 3.0, "period": "day", "pacing": None}]})
async def test_the_default_action_stays_within_the_budget(h: Harness) -> None:
    h.arm.mode = 500
    answers = await h.predict(*(instance(f"u{i}", baseline=SEARCH) for i in range(40)))
    assert {answer["fallback_reason"] for answer in answers} == {"model_error"}
    for arm in ("incumbent", "challenger"):
        of_it = [answer for answer in answers if answer["arm"] == arm]
        assert sum(answer["expose"] for answer in of_it) == 2 < len(of_it)  # from a limit of 1.5
        assert all(answer["expose"] != answer["budget_exhausted"] for answer in of_it)
        assert h.balance(arm).reserved <= h.balance(arm).limit
    refused = next(record for record in h.records() if record["budget_exhausted"])
    assert refused["refused_until"] is not None and refused["drawn_channel"] is None


@with_router(changes={"arms": ARMS})
async def test_the_baseline_applies_under_the_kill_switch_and_after_a_restart(h: Harness) -> None:
    (challenged,) = of_arm(h, "challenger", baseline=SEARCH)
    assert (await h.predict(challenged))[0]["channel"] == "video"
    await h.change(arms=ARMS, enabled=False)
    asked = len(h.arm.asked)
    (given,) = await h.predict({**challenged, "request_id": "r1"})
    assert (given["arm"], given["channel"], given["expose"]) == ("incumbent", "search", True)
    assert len(h.arm.asked) == asked
    await h.restart()
    assert await h.predict({**challenged, "request_id": "r1"}) == [given]


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_baseline_that_is_logged_too_late_is_not_exposed(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    log, late = Stages._log, threading.Event()

    def slow(stages: Stages, decisions: Any) -> None:
        late.wait(60)
        log(stages, decisions)

    h.arm.mode = 500
    monkeypatch.setattr(Stages, "_log", slow)
    (answer,) = await h.predict(instance(baseline=SEARCH))
    late.set()
    await until(h.holds_nothing)
    (record,) = h.records_of([answer])
    assert (answer["expose"], answer["reservation_id"], record["expose"]) == (False, None, False)
