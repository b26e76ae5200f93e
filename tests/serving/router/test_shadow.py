"""Tests that a challenger in shadow affects neither users nor spend nor latency."""

from pathlib import Path
from typing import Any

import pytest

from serving.router.flow import decider, stages
from tests.serving.router_fixtures import Harness, decision, instance, only, sample, with_router
from tests.waiting import until

BASELINE = {"channel": "search", "expose": True, "propensity": 1.0}
ARMS = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]
IN_SHADOW: dict[str, Any] = {"arms": ARMS, "stage": "shadow"}


def shadows(h: Harness) -> list[dict[str, Any]]:
    return list(h.spool.read("shadow"))


@with_router(changes=IN_SHADOW)
async def test_the_challengers_decision_is_logged_beside_the_incumbents(h: Harness, tmp_path: Path) -> None:
    answers = await h.predict(*(instance(f"u{i}", baseline=BASELINE) for i in range(5)))
    assert {(one["arm"], one["channel"], one["expose"]) for one in answers} == {("incumbent", "search", True)}
    await until(lambda: len(shadows(h)) == 5)
    assert len(h.arm.asked) == 5 and len(h.records()) == 5
    records = {record["decision_id"]: record for record in h.records()}
    for found in shadows(h):
        assert found["shadow_id"] == f"{found['decision_id']}.challenger"
        assert records.pop(found["decision_id"])["channel"] == "search"
        assert (found["channel"], found["expose"], found["propensity"]) == ("video", True, 0.75)
        assert found["channel_probs"] == {"search": 0.25, "video": 0.75} and found["model_digest"] == "d1"
    reserved = {balance.arm.rpartition("/")[2]: balance.reserved for balance in h.ledger.balances()}
    assert reserved["challenger"] == 0 and reserved["incumbent"] == reserved["*"] == pytest.approx(3.0)


@with_router(changes=IN_SHADOW)
async def test_no_caller_waits_and_dropped_shadows_are_counted(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped() -> float:
        return sample("mtorl_shadow_decisions_total", arm="challenger", result="dropped")

    monkeypatch.setattr(decider, "MOST_SHADOWS", 4)
    monkeypatch.setattr(stages, "_SHADOW_SECONDS", 60.0)
    before, turn = dropped(), 0
    h.arm.mode = "hold"
    # Two batches are then in progress, and a third one waits.
    while dropped() == before:
        answers = await h.predict(*(instance(f"u{turn}{i}", baseline=BASELINE) for i in range(4)))
        assert all(answer["expose"] and answer["fallback_reason"] is None for answer in answers)
        turn += 1
    assert not shadows(h) and dropped() == before + 4 and turn <= 4
    h.arm.release.set()
    await until(lambda: len(shadows(h)) == 4 * (turn - 1))


@with_router(changes=IN_SHADOW)
async def test_a_fault_of_the_challenger_changes_no_answer(h: Harness) -> None:
    async def ask() -> dict[str, Any]:
        before = len(shadows(h))
        (answer,) = await h.predict(instance(baseline=BASELINE))
        assert answer["expose"] and answer["fallback_reason"] is None
        await until(lambda: len(shadows(h)) == before + 1)
        return shadows(h)[-1]

    h.arm.mode = 500
    assert (await ask())["fault"] == "model_error"
    assert h.router.health.parts["test/challenger"].startswith("no answer")
    h.arm.mode = lambda _: decision(channel="tv")
    found = await ask()
    assert (found["fault"], found["channel"], found["expose"]) == ("model_error", None, None)
    h.features.fault = OSError("gone")
    assert (await ask())["fault"] == "features"
    h.features.fault, h.arm.mode = None, "ok"
    assert (await ask())["fault"] is None


@with_router(changes={**IN_SHADOW, "enabled": False})
async def test_the_kill_switch_stops_shadow_decisions(h: Harness) -> None:
    asked = len(h.arm.asked)
    await h.predict(*(instance(f"u{i}", baseline=BASELINE) for i in range(5)))
    await h.change(**IN_SHADOW)
    await h.predict(instance("u9", baseline=BASELINE))
    await until(lambda: len(shadows(h)) == 1)
    assert len(h.arm.asked) == asked + 1


@with_router(changes={"stage": "shadow"})
async def test_a_stage_that_has_just_begun_reports_no_exhausted_budget(h: Harness) -> None:
    """Until the accounts are set, the budget must not count as exhausted."""

    def ledger_is_busy(*_: Any) -> None:
        return None

    set_accounts = h.router.budgets.set_accounts
    h.router.budgets.set_accounts = ledger_is_busy  # type: ignore[method-assign]
    h.put(stage="50%")
    await until(lambda: only(h.router.live).stage == "50%")
    users = [instance(f"u{i}") for i in range(20)]
    early = [answer for answer in await h.predict(*users) if answer["arm"] == "challenger"]
    assert early and not any(answer["expose"] or answer["budget_exhausted"] for answer in early)
    assert {answer["fallback_reason"] for answer in early} == {"ledger"}

    h.router.budgets.set_accounts = set_accounts  # type: ignore[method-assign]
    await until(lambda: h.router.budgets.set_up_for(h.router.live.experiments))
    later = [instance(f"u{i}", request_id=f"later-{i}") for i in range(20)]
    assert {a["fallback_reason"] for a in await h.predict(*later)} == {None}
