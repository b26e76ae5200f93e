"""Tests that a retry gets the same exposure while its money is reserved or spent, and else a new decision."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from serving.ledger.contract import LedgerUnavailable
from tests.serving.ledgers import Place, cancel, settle
from tests.serving.router_fixtures import SHORT_DEADLINE, Harness, instance, running, with_router


async def test_an_exposure_that_another_router_cancelled_is_decided_again(tmp_path: Path, lasting_redis: int) -> None:
    where = Place("redis", tmp_path, lasting_redis).where
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    async with running(tmp_path / "b", ledger=where) as other:
        async with running(tmp_path / "a", ledger=where) as h:
            (first,) = await h.predict(instance(request_id="r1"))
            assert await h.predict(instance(request_id="r1")) == [first] and first["expose"]
            await other.outcome(first["decision_id"], "cancel", 0.0)
            (second,) = await h.predict(instance(request_id="r1"))
            assert second["expose"] and second["decision_id"] != first["decision_id"]
            assert await h.predict(instance(request_id="r1")) == [second]
            assert h.balance(first["arm"]).reserved == 0.05
            await other.outcome(second["decision_id"], "cancel", 0.0)
        async with running(tmp_path / "a", ledger=where) as h:  # its log has no cancellation
            (third,) = await h.predict(instance(request_id="r1"))
            assert third["expose"] and third["decision_id"] not in (first["decision_id"], second["decision_id"])
            await other.outcome(third["decision_id"], "cost", 0.04)
            assert await h.predict(instance(request_id="r1")) == [third]  # its cost is settled
            balance = h.balance(first["arm"])
            assert (balance.spent, balance.reserved, balance.excess) == (0.04, 0.0, 0.0)
            (elsewhere,) = await h.predict(instance(request_id="r2"))
            await other.outcome(elsewhere["decision_id"], "cancel", 0.0)
            assert (await other.predict(instance(request_id="r2")))[0]["expose"]
            (last,) = await h.predict(instance(request_id="r2"))
            assert (last["expose"], last["fallback_reason"]) == (False, "repeated"), "the ad is not exposed twice"
            assert h.balance(first["arm"]).reserved == 0.05


@pytest.mark.parametrize("how", ["cancelled", "expired", "late"])
@with_router()
async def test_concurrent_retries_all_get_the_same_new_decision(h: Harness, ledger: str, how: str) -> None:
    paid, lost = await h.predict(instance(request_id="paid"), instance(request_id="r1"))
    settle(h.ledger, paid["decision_id"], 0.04, "e")
    if how == "expired":
        h.ledger.expire(0.0)
    else:
        cancel(h.ledger, lost["decision_id"])
    if how == "late":
        settle(h.ledger, lost["decision_id"], 0.01, "e")
    batch = [instance(request_id=name) for name in ("r1", "paid", "new", "r1")]
    one, other = await asyncio.gather(h.predict(*batch), h.predict(*batch))
    assert one == other and one[0] == one[3] and one[1] == paid and one[2]["expose"]
    assert one[0]["decision_id"] != lost["decision_id"]
    assert one[0]["fallback_reason"] == ("repeated" if how == "late" else None)  # the late cost proves an exposure
    assert one[0]["expose"] is (how != "late")
    assert await h.predict(*batch) == one and not h.router.decider.cache._pending
    open_now = [answer["decision_id"] for answer in (one[0], one[2]) if answer["expose"]]
    assert sorted(h.ledger.open_reservations()) == sorted(open_now)


@with_router(drills=True, deadline_ms=SHORT_DEADLINE)
async def test_without_ledger_the_answer_is_repeated(h: Harness, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await h.predict(instance(request_id="r1"))
    with monkeypatch.context() as patch:
        patch.setattr(h.ledger, "reserve_all", Mock(side_effect=LedgerUnavailable("away")))
        assert await h.predict(instance(request_id="r1")) == first
    await h.post("/v1/drills", {"stage": "ledger", "fault": "slow", "seconds": 60})
    again, new = await h.predict(instance(request_id="r1"), instance(request_id="r2"))
    assert again == first[0] and new["fallback_reason"] == "ledger"
    await h.client.delete("/v1/drills")
    assert h.balance(again["arm"]).reserved == 0.05
