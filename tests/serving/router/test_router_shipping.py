"""Tests that the router's log reaches the event sink and the lake, at the latest when the router stops."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mtorl.log.lake import Lake, lake_database
from serving.decision_log import Spool
from serving.decision_log.http_sink import HttpSink
from serving.router import router as router_module
from serving.router.router import open_sink
from tests.lakes import id_of
from tests.serving.router_fixtures import (
    Harness,
    event,
    instance,
    running,
    sample,
    with_router,
    write_settings,
)
from tests.serving.shipping import WebSink, hurry
from tests.waiting import until


@pytest.fixture(autouse=True)
def no_knative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K_SINK", raising=False)


def test_settings_and_environment_choose_the_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sink(**settings: Any) -> Any:
        return open_sink(write_settings(tmp_path, "http://x", {}, **settings))

    assert sink() is None
    web = sink(sink="https://collector/events")
    assert isinstance(web, HttpSink) and web.url == "https://collector/events" and web.largest > 1
    assert web.source == "/mtorl/router/ads"
    monkeypatch.setenv("K_SINK", "http://broker")
    bound = sink()
    assert isinstance(bound, HttpSink) and (bound.url, bound.largest) == ("http://broker", 1)


async def test_decisions_and_outcomes_arrive_and_are_counted(tmp_path: Path) -> None:
    server = WebSink()
    url = await server.start()
    shipped = sample("mtorl_shipped_records_total", to="sink", kind="decision")
    failed = sample("mtorl_ship_failures_total", to="sink", reason="server_error")
    server.mode = 500
    async with running(tmp_path, sink=url) as h:
        answers = [(await h.predict(instance(f"u{i}")))[0] for i in range(5)]
        await h.outcome(answers[0]["decision_id"], "click", 1, event_id="e0")
        await until(lambda: sample("mtorl_spool_pending_bytes", to="sink") > 0)
        assert sample("mtorl_ship_failures_total", to="sink", reason="server_error") > failed
        assert 0 < sample("mtorl_spool_oldest_pending_seconds", to="sink") < 60
        assert 0 < sample("mtorl_spool_bytes") < sample("mtorl_spool_limit_bytes")
        server.mode = "ok"
    assert server.ids("decision") == [answer["decision_id"] for answer in answers]  # all are shipped when it stops
    assert server.ids("outcome") == ["e0"]
    assert sample("mtorl_shipped_records_total", to="sink", kind="decision") == shipped + 5
    assert sample("mtorl_spool_pending_bytes", to="sink") == 0
    await server.stop()


async def test_a_sink_that_stays_down_stops_no_exposure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(router_module, "Spool", partial(Spool, segment_bytes=20_000))
    monkeypatch.setattr(router_module, "_KEPT_SECONDS", -60.0)
    server = WebSink()
    server.mode = 503
    before = {
        name: sample(f"mtorl_{name}_records_total", to="sink", kind="decision") for name in ("dropped", "shipped")
    }

    def grown(name: str) -> float:
        return sample(f"mtorl_{name}_records_total", to="sink", kind="decision") - before[name]

    async with running(tmp_path, sink=await server.start(), spool_max_bytes=200_000, upload_seconds=0.1) as h:
        answers = []
        while grown("dropped") < 50:
            answers += await h.predict(*(instance(f"u{len(answers) + i}") for i in range(10)))
            assert {answer["fallback_reason"] for answer in answers} == {None}
            await until(lambda: h.spool.size < 150_000)
        server.mode = "ok"
        await until(lambda: h.router.shippers["sink"].pending == 0)
    assert grown("dropped") + grown("shipped") == len(answers)
    in_order = [answer["decision_id"] for answer in answers]
    assert set(server.ids("decision")) <= set(in_order) and len(set(server.ids("decision"))) == grown("shipped")
    await server.stop()


@with_router(spool_max_bytes=3000)
async def test_a_full_spool_gives_the_default_action_and_503_for_outcomes(h: Harness) -> None:
    answers = [(await h.predict(instance(f"u{i}")))[0] for i in range(10)]
    full = [answer for answer in answers if answer["fallback_reason"] == "log"]
    assert full and not any(answer["expose"] for answer in full)
    assert answers[0]["fallback_reason"] is None
    logged = [r["decision_id"] for r in h.records() if not r["withdrawn"]]  # a withdrawal may still fit
    assert logged == [a["decision_id"] for a in answers if a not in full]
    clicks = [event(id_of("d"), "click", 1, f"e{i}") for i in range(30)]
    response = await h.post("/v1/outcomes", {"outcomes": clicks})
    assert response.status_code == 503


@with_router()
async def test_all_records_are_in_the_lake_when_the_router_has_stopped(h: Harness) -> None:
    answers = [(await h.predict(instance(f"u{i}")))[0] for i in range(5)]
    await h.outcome(answers[0]["decision_id"], "click", 1)
    await h.restart()
    lake = Lake.open(h.settings.lake)
    with lake_database(lake) as db:
        (decisions, outcomes) = (
            {name for (name,) in db.execute(f"SELECT decision_id FROM {lake.records(db, kind)}").fetchall()}
            for kind in ("decision", "outcome")
        )
    assert decisions == {answer["decision_id"] for answer in answers}
    assert outcomes == {answers[0]["decision_id"]}


@with_router()
async def test_a_clock_that_is_ahead_for_a_while_deletes_nothing(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[float] = []
    monkeypatch.setattr(h.spool, "prune", lambda shipped, before: pruned.append(before))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 365 * 86_400)
    await h.router._prune_log()
    assert pruned and max(pruned) < real()
