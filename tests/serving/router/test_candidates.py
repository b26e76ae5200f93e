from pathlib import Path

import pytest

from tests.serving.router_fixtures import CONTEXT, Harness, arms, decision, instance, running, with_router

ONLY_SEARCH = {"channel": "search", "channel_probs": {"search": 1.0, "video": 0.0}, "propensity": 1.0}


@with_router()
async def test_an_arm_gets_the_candidates_and_may_choose_only_them(h: Harness) -> None:
    h.arm.mode = lambda item: decision(**ONLY_SEARCH) if item["candidates"] == ["search"] else decision()
    shown, plain = await h.predict(instance("u1", candidates=["search"]), instance("u2"))
    assert (shown["channel"], shown["expose"], plain["channel"]) == ("search", True, "video")
    first, second = h.records_of([shown, plain])
    assert (first["candidates"], first["channel_probs"]) == (["search"], {"search": 1.0})
    assert second["candidates"] == ["search", "video"]
    h.arm.mode = "ok"  # the arm now ignores the candidates
    (refused,) = await h.predict(instance(candidates=["search"]))
    assert (refused["fallback_reason"], refused["expose"]) == ("model_error", False)
    h.arm.mode = 500
    (default,) = await h.predict(instance(candidates=["video"]))
    assert (default["channel"], default["expose"], default["fallback_reason"]) == ("video", False, "model_error")


async def test_rows_baselines_and_exploration_choose_only_candidates(tmp_path: Path) -> None:
    rows = [{"when": {"device": "phone"}, "channel": "video"}, {"channel": "search"}]
    async with running(tmp_path, changes={"arms": arms(policy=rows, explore={"share": 0.5})}) as h:
        answers = await h.predict(*(instance(f"u{i}", candidates=["search"]) for i in range(8)))
        assert {(answer["channel"], answer["propensity"]) for answer in answers} == {("search", 1.0)}
        assert all(record["channel_probs"] == {"search": 1.0} for record in h.records())
        (none,) = await h.predict(instance(candidates=["video"], context={**CONTEXT, "device": "tv"}))
        assert (none["fallback_reason"], none["channel"]) == ("model_error", "video")
    async with running(tmp_path, changes={"arms": arms(policy="baseline", explore={"share": 0.5})}) as h:
        said = {"channel": "video", "expose": False, "propensity": 1.0}
        await h.predict(*(instance(f"u{i}", candidates=["video"], baseline=said) for i in range(8)))
        for record in h.records()[-8:]:
            assert (record["channel"], record["channel_probs"]) == ("video", {"video": 1.0})
            assert record["exposure_probs"] == {"video": 0.5}


@with_router()
async def test_the_cost_in_a_request_is_reserved_and_recorded(h: Harness) -> None:
    (cheap,) = await h.predict(instance("u1", costs={"video": 0.02}))
    assert h.balance(cheap["arm"]).reserved == 0.02
    assert h.arm.asked[-1][1]["costs"] == {"video": 0.02}
    # The request has only another channel's cost, so the usual cost is reserved.
    (other,) = await h.predict(instance("u1", costs={"search": 0.1}))
    assert other["arm"] == cheap["arm"] and h.balance(cheap["arm"]).reserved == pytest.approx(0.07)
    first, second = h.records()
    assert (first["costs"], first["reserved"], second["reserved"]) == ({"video": 0.02}, 0.02, 0.05)
    # The real cost is above the request's.
    await h.outcome(cheap["decision_id"], "cost", 0.05)
    balance = h.balance(cheap["arm"])
    assert balance.spent + balance.reserved <= balance.limit and balance.spent == 0.02
    assert balance.excess == pytest.approx(0.03)
