"""The router ships its log: beside its decisions, to where it is told, to the end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from serving.decision_log import Spool
from serving.decision_log.export import export_segments
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.parquet_sink import ParquetSink
from serving.router.router import open_sink
from tests.serving.router_fixtures import Harness, in_loop, instance, running, sample, with_router, write_settings
from tests.serving.shipping import WebSink


@pytest.fixture(autouse=True)
def no_knative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K_SINK", raising=False)


def test_where_the_log_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")
    spool.close()

    def sink(**settings: Any) -> Any:
        return open_sink(write_settings(tmp_path, "http://x", {}, **settings), spool)

    assert sink() is None
    parquet, web = sink(sink="log"), sink(sink="https://collector/events")
    assert isinstance(parquet, ParquetSink) and parquet.folder == tmp_path / "log"
    assert isinstance(web, HttpSink) and web.url == "https://collector/events" and web.largest > 1
    assert web.source == "/mtorl/router/ads"
    monkeypatch.setenv("K_SINK", "http://broker")
    bound = sink(sink="log")
    assert isinstance(bound, HttpSink) and (bound.url, bound.largest) == ("http://broker", 1)


@in_loop
async def test_decisions_and_outcomes_arrive_and_are_counted(tmp_path: Path) -> None:
    server = WebSink()
    url = await server.start()
    shipped = sample("mtorl_shipped_records_total", kind="decision")
    failed = sample("mtorl_ship_failures_total", reason="server_error")
    server.mode = 500
    async with running(tmp_path, sink=url) as h:
        answers = [(await h.predict(instance(f"u{i}")))[0] for i in range(5)]
        await h.outcome(answers[0]["decision_id"], "click", 1, event_id="e0")
        await h.until(lambda: sample("mtorl_spool_pending_records") == 6)
        assert sample("mtorl_ship_failures_total", reason="server_error") > failed
        assert 0 < sample("mtorl_spool_oldest_pending_seconds") < 60
        assert 0 < sample("mtorl_spool_bytes") < sample("mtorl_spool_limit_bytes")
        server.mode = "ok"
    assert server.ids("decision") == [answer["decision_id"] for answer in answers]  # at the latest at the end
    assert server.ids("outcome") == ["e0"]
    assert sample("mtorl_shipped_records_total", kind="decision") == shipped + 5
    assert sample("mtorl_spool_pending_records") == 0
    await server.stop()


@in_loop
async def test_a_sink_that_hangs_slows_no_decision_and_not_the_end(tmp_path: Path) -> None:
    server = WebSink()
    server.mode = "hang"
    async with running(tmp_path, sink=await server.start()) as h:
        for i in range(20):
            assert (await h.predict(instance(f"u{i}")))[0]["fallback_reason"] is None
        start = time.monotonic()
    assert time.monotonic() - start < 60  # the sink hangs for an hour
    await server.stop()


@with_router(spool_max_bytes=3000)
async def test_a_full_spool_is_the_default_action_and_outcomes_come_again(h: Harness) -> None:
    answers = [(await h.predict(instance(f"u{i}")))[0] for i in range(10)]
    full = [answer for answer in answers if answer["fallback_reason"] == "log"]
    assert full and not any(answer["expose"] for answer in full)
    assert answers[0]["fallback_reason"] is None
    assert [r["decision_id"] for r in h.records()] == [a["decision_id"] for a in answers if a not in full]
    event = {"decision_id": "d", "kind": "click", "value": 1, "event_time": "2026-01-01T12:00:00Z"}
    response = await h.post("/v1/outcomes", {"outcomes": [{**event, "event_id": f"e{i}"} for i in range(30)]})
    assert response.status_code == 503


@with_router(export_mark="exported.json")
async def test_the_age_of_the_export_is_published(h: Harness, tmp_path: Path) -> None:
    await h.until(lambda: sample("mtorl_export_age_seconds") == 0)
    await h.predict()
    await h.until(lambda: sample("mtorl_export_age_seconds") > 0)
    await asyncio.to_thread(export_segments, h.spool.folder, tmp_path / "out", tmp_path / "exported.json")
    await h.until(lambda: sample("mtorl_export_age_seconds") == 0)
