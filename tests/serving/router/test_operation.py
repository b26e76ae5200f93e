import re
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import generate_latest

from mtorl.experiment.experiment import Experiment
from mtorl.policy.pacing import Pace
from mtorl.policy.periods import Period
from serving.ledger.contract import Balance, Room
from serving.ledger.overrun import budget_warnings
from serving.messages import FEW_EXPOSURES, OVERSPENT
from serving.router import messages
from serving.router.ops import metrics
from tests.messages import assert_says
from tests.serving.ledgers import Place
from tests.serving.router_fixtures import (
    SHORT_DEADLINE,
    Harness,
    arms,
    decision,
    instance,
    only,
    running,
    sample,
    with_router,
)
from tests.waiting import until

BUDGET = {"campaign": "*", "channel": "*"}


@with_router()
async def test_the_experiment_is_reloaded_and_an_invalid_file_changes_nothing(h: Harness) -> None:
    kept = h.folder / "last-good-experiments" / "experiment.yaml"
    assert sample("mtorl_experiment_enabled", experiment="test") == 1
    before = h.router.live.experiments
    good = kept.read_text()
    for wrong in ({"stage": "9%"}, {"metrics": {"primary": "clicks"}}, {"default_channel": "tv"}):
        h.put(**wrong)
        assert not h.router.live.refresh()
        assert sample("mtorl_experiment_refused") == 1
    assert "experiment.yaml: default_channel" in (await h.client.get("/health/ready")).json()["parts"]["experiment"]
    assert kept.read_text() == good
    assert only(h.router.live).enabled and h.router.live.experiments is before

    # The router finds the kill switch when it polls the file.
    h.put(enabled=False)
    await until(lambda: h.router.live.experiments is not before)
    assert {p["arm"] for p in await h.predict(*(instance(f"u{i}") for i in range(20)))} == {"incumbent"}
    assert sample("mtorl_experiment_enabled", experiment="test") == 0 and sample("mtorl_experiment_refused") == 0
    assert (await h.client.get("/health/ready")).json()["parts"]["experiment"] == "ok"
    assert not Experiment.load(kept).enabled  # the kill switch survives a restart
    assert {record["stage"] for record in h.records()} == {"off"}
    await until(lambda: h.balance("incumbent").limit == 100 and h.balance("challenger").limit == 0)


@pytest.mark.parametrize("call", ["expire", "define", "balances"])
@with_router()
async def test_the_kill_switch_needs_no_ledger(h: Harness, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A ledger that hung once delayed the kill switch by 6 s."""
    may_answer = threading.Event()
    answer = getattr(h.ledger, call)
    hanging = threading.Event()

    def hang(*arguments: Any) -> Any:
        hanging.set()
        assert may_answer.wait(60)
        return answer(*arguments)

    monkeypatch.setattr(h.ledger, call, hang)
    for enabled in (True, False):
        h.put(enabled=enabled, owner=f"changed {enabled}")
        await until(hanging.is_set)
    await until(lambda: not only(h.router.live).enabled)
    assert not may_answer.is_set()
    may_answer.set()
    await until(lambda: h.balance("challenger").limit == 0)


@with_router(changes={"budgets": [{**BUDGET, "amount": 6.0}]})
async def test_the_kill_switch_under_traffic_keeps_spend_within_the_budget(h: Harness) -> None:
    """Once, the incumbent's limit became the whole budget, although the challenger had spent some."""

    async def spend(rounds: int) -> set[str]:
        arms = set()
        for i in range(rounds):
            for answer in await h.predict(*(instance(f"u{n}") for n in range(30))):
                if answer["expose"]:
                    arms.add(answer["arm"])
                    await h.outcome(answer["decision_id"], "cost", 0.05, f"{i} {answer['decision_id']}")
        return arms

    assert await spend(2) == {"incumbent", "challenger"}
    spent = h.balance("challenger").spent
    h.put(enabled=False, budgets=[{**BUDGET, "amount": 6.0}])
    assert await spend(1)  # traffic continues meanwhile
    await until(lambda: h.balance("incumbent").limit > 3.0)
    assert await spend(4) == {"incumbent"}
    whole = h.balance("*")
    assert (whole.spent, whole.reserved, whole.excess) == (6.0, 0.0, 0.0)
    assert h.balance("challenger").spent >= spent > 0


@with_router()
async def test_metrics_are_shown(h: Harness) -> None:
    (answer,) = await h.predict()
    await h.outcome(answer["decision_id"], "cost", 0.02)
    arm = {"experiment": "test", "arm": answer["arm"]}
    await until(lambda: sample("mtorl_budget_spent", **arm, period="total") == 0.02)
    assert sample("mtorl_budget_spent", experiment="", arm="*", period="total") == 0.02
    assert sample("mtorl_budget_limit", **arm, period="total") == 50
    assert sample("mtorl_budget_spend_ratio", **arm) == 0.02 / 50
    assert sample("mtorl_decisions_total", **arm, expose="true") > 0
    assert sample("mtorl_decision_latency_seconds_count", **arm) > 0
    for stage in ("features", "model", "ledger", "log"):
        assert sample("mtorl_stage_latency_seconds_count", **arm, stage=stage) > 0
    assert sample("mtorl_outcomes_total", kind="cost", status="accepted") > 0
    assert "mtorl_spool_records_total" in (await h.client.get("/metrics")).text
    await until(lambda: sample("mtorl_ledger_free_bytes", store="file_beside_log") > 0)
    room = h.ledger.room()
    assert room is not None and room.device == h.folder.stat().st_dev
    assert sample("mtorl_ledger_limit_bytes", store="file_beside_log") == room.limit > room.free > 0
    assert (await h.post("/v1/drills", {"stage": "model", "fault": "error"})).status_code == 404, "off by default"


@pytest.mark.parametrize("changes", [{"arms": arms(explore=how)} for how in (None, {"share": 1.0, "scope": "both"})])
@pytest.mark.parametrize(
    ("probs", "counted"),
    [({"search": 0.05, "video": 0.95}, True), ({"search": 0.0, "video": 1.0}, False), (None, False)],
    ids=["free", "fixed", "unsaid"],
)
@with_router()
async def test_draws_of_policies_with_a_choice_are_counted(
    h: Harness, changes: Any, probs: dict[str, float] | None, counted: bool
) -> None:
    name = "mtorl_drawn_channels_total"
    before = {channel: sample(name, arm="challenger", channel=channel) for channel in ("search", "video")}
    said = {"propensity": probs["video"], "channel_probs": probs} if probs else {"channel_probs": None}
    h.arm.mode = lambda _: decision(**said)
    answers = await h.predict(*(instance(f"u{i}") for i in range(60)))
    h.arm.mode = 500
    await h.predict(*(instance(f"v{i}") for i in range(60)))
    of_arm = [answer for answer in answers if answer["arm"] == "challenger"]
    assert len(of_arm) > 20 and {answer["fallback_reason"] for answer in of_arm} == {None}
    drawn = sample(name, arm="challenger", channel="video") - before["video"]
    assert drawn == (len(of_arm) if counted else 0)
    assert sample(name, arm="challenger", channel="search") == before["search"]


@with_router(ledger="later/ledger.sqlite")
async def test_the_router_starts_before_its_ledger_and_spends_once_it_is_there(h: Harness, tmp_path: Path) -> None:
    assert (await h.predict())[0]["fallback_reason"] == "ledger"
    (tmp_path / "later").mkdir()
    await until(lambda: h.router.budgets.ready)
    assert (await h.predict())[0]["expose"]


@with_router(reservation_ttl_hours=1e-5)
async def test_a_reservation_without_an_outcome_expires(h: Harness) -> None:
    before = sample("mtorl_budget_expired_total")
    (answer,) = await h.predict()
    assert answer["expose"]
    await until(lambda: sample("mtorl_budget_expired_total") == before + 1)
    assert h.balance(answer["arm"]).reserved == 0
    await h.outcome(answer["decision_id"], "cost", 0.02)
    assert h.balance(answer["arm"]).spent == 0.02


def test_gauges_count_a_reservation_once_and_drop_a_renamed_arm() -> None:
    """Once, a reservation in three accounts was shown three times, and a renamed arm stayed visible."""

    def of(arm: str, campaign: str, channel: str, period: Period = "total") -> Balance:
        return Balance(arm, campaign, channel, 9.0, spent=0.25, reserved=0.449, excess=0.0, period=period)

    scopes = (("*", "video"), ("c1", "video"), ("c1", "*"), ("c2", "search"))
    nested = [of("a", "*", "*"), of("a", "*", "*", "day"), *(of("a", *scope) for scope in scopes)]
    metrics.show_budget([*nested, of("b", "c1", "*"), of("b", "c2", "*"), of("b", "*", "video")])
    assert sample("mtorl_budget_reserved", arm="a", period="total") == 0.449
    assert sample("mtorl_budget_reserved", arm="a", period="day") == 0.449
    shown = [sample(f"mtorl_budget_{what}", arm="b", period="total") for what in ("limit", "spent", "reserved")]
    assert shown in ([18.0, 0.5, 0.898], [9.0, 0.25, 0.449])  # sums over accounts that do not overlap
    assert sample("mtorl_budget_spend_ratio", arm="a") == 0.25 / 9.0
    fuller = Balance("a", "*", "*", 1.0, spent=0.9, reserved=0.0, excess=0.0, period="day")
    metrics.show_budget([of("a", "*", "*"), fuller, Balance("b", "*", "*", 0.0, spent=0.0, reserved=0.0, excess=0.0)])
    assert [sample("mtorl_budget_spend_ratio", arm=arm) for arm in "ab"] == [0.9, 0.0], "ratio of the fullest account"
    metrics.show_budget([of("renamed", "*", "*")])
    metrics.show_prices({"a": 0.5})
    metrics.show_prices({"renamed": 0.5})
    text = generate_latest().decode()
    assert (
        'mtorl_budget_limit{arm="renamed",experiment="",period="total"} 9.0' in text
        and 'mtorl_budget_price{arm="renamed",experiment=""}' in text
    )
    assert not re.search(r'mtorl_budget_\w+\{arm="[ab]"', text)


def test_pacing_gaps_are_those_of_the_furthest_accounts() -> None:
    """One campaign is far ahead of its plan and another far behind, so their sum would look normal."""
    metrics.show_pace(
        [
            Pace("spring/a", "c1", "*", "day", planned=50.0, committed=80.0, largest_gap=10.0),
            Pace("spring/a", "c1", "video", "day", planned=50.0, committed=50.0, largest_gap=10.0),
            Pace("spring/a", "c2", "*", "day", planned=50.0, committed=25.0, largest_gap=10.0),
            Pace("spring/b", "*", "*", "day", planned=50.0, committed=51.0, largest_gap=10.0),
        ]
    )
    a, b = ({"experiment": "spring", "arm": arm, "period": "day"} for arm in "ab")
    names = ("planned", "paced", "ahead_ratio", "behind_ratio")
    assert [sample(f"mtorl_budget_{name}", **a) for name in names] == [100.0, 105.0, 3.0, 2.5]
    assert [sample(f"mtorl_budget_{name}", **b) for name in names] == [50.0, 51.0, pytest.approx(0.1), 0.0]
    metrics.show_pace([])
    assert not re.search(r'mtorl_budget_\w+\{arm="[ab]",experiment="spring"', generate_latest().decode())


def test_the_ledgers_free_space_is_labelled_by_its_store() -> None:
    """A ledger file on the log's disk has a label of its own, so that a full disk causes one alert instead of two."""

    def shown() -> dict[str, float]:
        lines = re.findall(r'^mtorl_ledger_(\w+)_bytes\{store="(\w+)"\} (.+)$', generate_latest().decode(), re.M)
        return {f"{store} {of}": float(value) for of, store, value in lines}

    metrics.show_ledger_room(Room("file", 3, 10, device=1), beside=True)
    assert shown() == {"file_beside_log free": 3.0, "file_beside_log limit": 10.0}
    metrics.show_ledger_room(Room("file", 3, 10, device=1), beside=False)
    assert shown() == {"file free": 3.0, "file limit": 10.0}
    metrics.show_ledger_room(Room("redis", 4, 10), beside=False)
    assert shown() == {"redis free": 4.0, "redis limit": 10.0}
    metrics.show_ledger_room(None, beside=False)
    assert shown() == {}


@with_router()
async def test_a_budget_below_its_spend_is_reported_once(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    (answer,) = await h.predict()
    await h.outcome(answer["decision_id"], "cost", 0.04)
    h.put(budgets=[{**BUDGET, "amount": 0.03}])
    await until(lambda: len(h.router.health.problems.get("budgets", ())) > 0)
    (warning,) = h.router.health.problems["budgets"]
    assert_says(warning, OVERSPENT, budget="campaign *, channel *, total", spent=0.04)
    h.put(budgets=[{**BUDGET, "amount": 100.0}])
    await until(lambda: h.router.health.parts.get("budgets") == "ok")
    assert caplog.messages.count(f"budgets: {warning}") == 1


@pytest.mark.parametrize(
    ("channel", "limit", "said"),
    [
        ("*", 0.5, {"arm": "challenger", "limit": 0.5, "count": 0, "channel": "search"}),
        ("*", 14.9, {"limit": 14.9, "count": 19, "channel": "search"}),
        ("*", 15.0, None),
        ("*", 0.0, None),  # no user is in the arm
        ("video", 0.5, {"count": 1, "channel": "video"}),
        ("unknown", 0.5, None),  # nothing is reserved there
    ],
)
def test_an_arm_whose_money_pays_for_few_ads_is_reported(channel: str, limit: float, said: Any) -> None:
    whole, arm = (Balance(arm, "*", channel, limit, 0.0, 0.0, 0.0, "day") for arm in ("*", "challenger"))
    found = budget_warnings([whole, arm], 0.0, {"video": 0.4, "search": 0.75})
    assert len(found) == (said is not None)
    for warning in found:
        assert_says(warning, FEW_EXPOSURES, **said)
    tomorrow = Balance("*", "*", "*", 1.0, 0.0, 0.0, 0.0, "day", start=86_400)  # begun too early by a clock ahead
    assert not budget_warnings([tomorrow], 86_390.0, {}) and budget_warnings([tomorrow], 3_600.0, {})


async def test_a_limit_that_the_ledger_cannot_hold_spends_nothing(tmp_path: Path, lasting_redis: int) -> None:
    budgets = [{"campaign": "*", "channel": "*", "amount": 1e8}]
    where = Place("redis", tmp_path, lasting_redis).where
    async with running(tmp_path, changes={"budgets": budgets}, ledger=where) as h:
        assert (await h.predict())[0]["fallback_reason"] == "ledger"


@with_router()
async def test_probes_report_the_faults_of_parts(h: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await h.predict()
    assert [(await h.client.get(f"/health/{p}")).status_code for p in ("live", "ready")] == [200] * 2
    ready = (await h.client.get("/health/ready")).json()
    assert ready["ready"] and set(ready["parts"]) >= {"ledger", "features", "test/incumbent", "test/challenger"}
    assert (await h.client.get("/health/other")).status_code == 404
    h.features.fault = RuntimeError("away")
    await h.predict()
    (problem,) = (await h.client.get("/health/ready")).json()["problems"]["features"]
    assert (problem["code"], problem["values"]["cause"]) == (messages.NO_ANSWER.code, "RuntimeError")
    h.arm.mode, h.features.fault = 500, None
    await h.predict(*(instance(f"u{n}") for n in range(20)))
    found = (await h.client.get("/health/ready")).json()
    assert found["parts"]["features"] == "ok"
    assert {found["problems"][f"test/{arm}"][0]["values"]["cause"] for arm in ("incumbent", "challenger")} == {
        "ArmError"
    }
    h.arm.mode = "ok"
    (tmp_path / "ledger.sqlite").unlink()
    await until(lambda: h.router.health.parts.get("ledger", "ok") != "ok")
    away = await h.client.get("/health/ready")
    assert away.status_code == 200 and away.json()["parts"]["ledger"].startswith("no answer")  # the router decides
    h.router.health.draining = True
    assert (await h.client.get("/health/ready")).status_code == 503
    h.router.health.draining = False
    h.spool.close()
    dead = await h.client.get("/health/ready")
    assert dead.status_code == 503 and dead.json()["problems"]["decision_log"] == [messages.LOG_ENDED().body]
    now = monotonic()
    monkeypatch.setattr("serving.router.ops.health.monotonic", lambda: now + 60)
    assert (await h.client.get("/health/live")).status_code == 503


@with_router(drills=True)
async def test_a_drill_has_the_effect_of_a_real_fault(h: Harness) -> None:
    for stage, reason in {"features": "features", "model": "model_error", "ledger": "ledger", "log": "log"}.items():
        assert (await h.post("/v1/drills", {"stage": stage, "fault": "error"})).json()["drills"][0]["stage"] == stage
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == reason and not answer["expose"]
        assert (await h.client.delete("/v1/drills")).json() == {"drills": []}
        assert (await h.predict())[0]["expose"]


@with_router(drills=True, deadline_ms=SHORT_DEADLINE)
async def test_drills_are_checked_and_end_by_themselves(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await h.post("/v1/drills", {"stage": "model", "fault": "slow", "seconds": -1})).status_code == 400
    await h.post("/v1/drills", {"stage": "model", "fault": "slow", "seconds": 60, "for_seconds": 300})
    assert (await h.predict())[0]["fallback_reason"] == "model_timeout"
    end = monotonic() + 300
    monkeypatch.setattr("serving.router.ops.drills.monotonic", lambda: end)
    assert (await h.predict())[0]["expose"] and not (await h.client.get("/v1/drills")).json()["drills"]
