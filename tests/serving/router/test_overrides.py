"""Tests of overridden users, whose ads are paid from an account of their own."""

from pathlib import Path

import pytest

from serving.router import router
from tests.serving.router_fixtures import COST_CAP, Harness, instance, running, sample, with_router
from tests.waiting import until

QA = {"qa-anna": "challenger", "qa-ben": "incumbent"}
VIDEO = COST_CAP["video"]


@with_router(changes={"stage": "shadow", "overrides": QA})
async def test_in_shadow_an_overridden_user_gets_the_arm_without_a_shadow_decision(h: Harness) -> None:
    counted = sample("mtorl_decisions_total", arm="challenger", expose="true")
    anna, ben, other = await h.predict(instance("qa-anna"), instance("qa-ben"), instance("u1"))
    assert [answer["arm"] for answer in (anna, ben, other)] == ["challenger", "incumbent", "incumbent"]
    assert all(answer["expose"] for answer in (anna, ben, other)) and "override" not in anna
    records = {record["user_id"]: record for record in h.records()}
    assert {user: (r["override"], r["assignment_probability"]) for user, r in records.items()} == {
        "qa-anna": (True, 1.0), "qa-ben": (True, 1.0), "u1": (False, 1.0),
    }  # fmt: skip
    limits = {balance.arm.rpartition("/")[2]: (balance.limit, balance.reserved) for balance in h.ledger.balances()}
    assert limits == {
        "*": (100, pytest.approx(3 * VIDEO)), "incumbent": (99, VIDEO), "challenger": (0, 0),
        "override": (1, pytest.approx(2 * VIDEO)),
    }  # fmt: skip
    await until(lambda: len(list(h.spool.read("shadow"))) == 1)
    assert next(iter(h.spool.read("shadow")))["decision_id"] == other["decision_id"]
    assert sample("mtorl_decisions_total", arm="challenger", expose="true") == counted
    await h.outcome(anna["decision_id"], "cost", 0.03)
    assert (h.balance("override").spent, h.balance("override").reserved) == (0.03, VIDEO)


@with_router(changes={"overrides": QA})
async def test_overridden_users_spend_only_their_account(h: Harness) -> None:
    answers = [answer for _ in range(30) for answer in await h.predict(instance("qa-anna"), instance("qa-ben"))]
    assert sum(answer["expose"] for answer in answers) == 20 and answers[-1]["budget_exhausted"]
    assert h.balance("override").reserved == pytest.approx(1.0)
    assert all(answer["expose"] for answer in await h.predict(*(instance(f"u{i}") for i in range(10))))


@with_router(changes={"overrides": QA})
async def test_a_retry_is_paid_from_the_override_account_also_after_a_restart(h: Harness) -> None:
    for _ in range(2):
        (answer,) = await h.predict(instance("qa-anna", request_id="r1"))
        assert answer["expose"] and await h.predict(instance("qa-anna", request_id="r1")) == [answer]
        assert h.balance("override").reserved == VIDEO and h.balance("challenger").reserved == 0
        await h.restart()


DAILY = {"campaign": "*", "channel": "*", "amount": 10.0, "period": "day", "pacing": "none"}


@with_router(changes={"overrides": QA, "budgets": [{**DAILY, "pacing": {"price": 0.4}}]})
async def test_pacing_ignores_overridden_users(h: Harness) -> None:
    await until(lambda: h.router.budgets.pacer.prices("test/challenger", "spring"))
    await h.predict(instance("qa-anna"), instance("u1"))
    asked = {item["user_id"]: item for _, item in h.arm.asked}
    assert "price" in asked["u1"] and "price" not in asked["qa-anna"]
    assert h.router.budgets.pacer.prices("test/override", "spring") is None


@with_router(changes={"budgets": [DAILY]})
async def test_an_edit_during_a_period_keeps_spend_and_cap(h: Harness) -> None:
    for i in range(60):
        await h.predict(instance(f"u{i}"))
    spent = {name: h.balance(name).reserved for name in ("incumbent", "challenger", "*")}
    assert spent["*"] == pytest.approx(3.0)
    await h.change(budgets=[DAILY], overrides=QA)
    limits = {balance.arm.rpartition("/")[2]: balance.limit for balance in h.ledger.balances()}
    assert limits["override"] == pytest.approx(0.1) and limits["*"] == 10
    assert limits["incumbent"] >= spent["incumbent"] and limits["challenger"] >= spent["challenger"]
    (anna,) = await h.predict(instance("qa-anna"))
    assert anna["expose"] and h.balance("override").reserved == VIDEO
    await h.change(budgets=[DAILY])
    assert "override" not in {balance.arm.rpartition("/")[2] for balance in h.ledger.balances()}
    assert h.balance("*").reserved == pytest.approx(3.0 + VIDEO)
    await h.outcome(anna["decision_id"], "cost", 0.04)  # earlier reservations are still settled
    assert (h.balance("*").spent, h.balance("*").reserved) == (0.04, pytest.approx(3.0))
    for i in range(300):
        await h.predict(instance(f"v{i}"))
    whole = h.balance("*")
    assert whole.spent + whole.reserved <= whole.limit
    await h.change(budgets=[DAILY], overrides=QA)
    assert h.balance("override").spent == 0.04, "the period continues with its earlier spend"


@with_router(changes={"overrides": QA, "enabled": False})
async def test_the_kill_switch_gives_overridden_users_the_incumbent(h: Harness) -> None:
    (anna,) = await h.predict(instance("qa-anna"))
    (record,) = h.records()
    assert (anna["arm"], record["override"], record["stage"]) == ("incumbent", False, "off")
    assert "override" not in {balance.arm.rpartition("/")[2] for balance in h.ledger.balances()}


async def test_accounts_follow_a_changed_file_before_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pause between housekeeping rounds exceeds the wait of `until`.
    monkeypatch.setattr(router, "_TICK_SECONDS", 600.0)
    monkeypatch.setattr(router, "_POLLS", 6000)
    async with running(tmp_path) as h:
        before = h.router.live.experiments
        h.put(overrides=QA)
        await h.router._follow_experiment()
        assert h.router.live.experiments is not before
        await until(lambda: h.router.budgets.set_up_for(h.router.live.experiments))
