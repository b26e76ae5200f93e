"""Records, and sinks that fail on demand, for tests of shipping."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp import web

from mtorl.log.records import ID_FIELD
from serving.decision_log import Kind, Spool, shipper
from serving.decision_log.segments import Batch
from serving.decision_log.shipper import Shipper, Sink, SinkUnavailable
from tests.waiting import until

GOLDEN = Path(__file__).parent / "golden"
RECORDS: dict[Kind, dict[str, Any]] = {kind: json.loads((GOLDEN / f"{kind}.json").read_text()) for kind in ID_FIELD}


def record(kind: Kind, name: str, /, **changes: Any) -> dict[str, Any]:
    return {**RECORDS[kind], ID_FIELD[kind]: name, **changes}


def put(spool: Spool, kind: Kind, /, *names: str, **changes: Any) -> None:
    for done in [spool.submit(kind, record(kind, name, **changes)) for name in names]:
        done.result(timeout=60)


def put_in_turn(spool: Spool, kind: Kind, *names: str) -> None:
    for name in names:
        put(spool, kind, name)


def names(prefix: str, number: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(number)]


class MemorySink:
    """A sink that keeps the ids of accepted records; `fault` may raise an error instead."""

    def __init__(self, largest: int = 7, linger: float = 0.0) -> None:
        self.largest = largest
        self.linger = linger
        self.kinds: tuple[Kind, ...] = get_args(Kind)
        self.got: dict[Kind, list[str]] = {kind: [] for kind in ID_FIELD}
        self.batches: list[Batch] = []
        self.fault: Callable[[Batch], None] = lambda batch: None

    async def deliver(self, batch: Batch) -> None:
        self.fault(batch)
        self.batches.append(batch)
        self.got[batch.kind] += ids(batch)

    async def close(self) -> None:
        pass


def unreachable(_: Batch) -> None:
    raise SinkUnavailable("network", "down")


def ids(batch: Batch) -> list[str]:
    return [json.loads(line)[ID_FIELD[batch.kind]] for line in batch.lines]


class WebSink:
    """An HTTP server that receives events and answers as set by `mode`.

    Attributes:
        mode: An HTTP status, "hang", "garbage", "ok", or a function that returns one of these for a request's events.
        got: Accepted events, in order.
        requests: Content type, number of events and answer of each request.
    """

    def __init__(self, mode: Any = "ok", headers: dict[str, str] | None = None) -> None:
        self.mode = mode
        self.headers = headers
        self.got: list[dict[str, Any]] = []
        self.requests: list[tuple[str, int, Any]] = []

    async def start(self) -> str:
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/events", self._take)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/events"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        found = parse(dict(request.headers), await request.read())
        mode = self.mode(found) if callable(self.mode) else self.mode
        self.requests.append((request.headers["content-type"], len(found), mode))
        match mode:
            case "hang":
                await asyncio.sleep(3600)
            case "garbage":
                assert request.transport is not None
                request.transport.write(b"\x00\xffnot http at all\r\n\r\n")  # type: ignore[attr-defined]
                request.transport.close()
                return web.Response()
            case int(status):
                return web.Response(status=status, text="no", headers=self.headers)
        self.got += found
        return web.Response(status=202)

    def ids(self, kind: Kind) -> list[str]:
        return [event["id"] for event in self.got if event["type"].startswith(f"mtorl.{kind}.")]


def parse(headers: dict[str, str], body: bytes) -> list[dict[str, Any]]:
    from cloudevents.http import from_dict, from_http

    if headers.get("Content-Type", headers.get("content-type")) == "application/cloudevents-batch+json":
        events = [from_dict({k: v for k, v in event.items()}) for event in json.loads(body)]
    else:
        events = [from_http(headers, body)]
    return [{**event.get_attributes(), "data": event.get_data()} for event in events]


def hurry(patch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "POLL_SECONDS": 0.005,
        "NOTE_SECONDS": 0.0,
        "FIRST_PAUSE": 0.001,
        "LONGEST_PAUSE": 0.02,
    }.items():
        patch.setattr(shipper, f"_{name}", seconds)


SHIPPED = "shipped.json"


def new_shipper(spool: Spool, sink: Sink) -> Shipper:
    return Shipper(spool, sink, SHIPPED)


@asynccontextmanager
async def shipping(spool: Spool, sink: Sink, drain: float = 60.0) -> AsyncIterator[Shipper]:
    running = new_shipper(spool, sink)
    running.start()
    try:
        yield running
    finally:
        await running.close(drain)


def ship_all(spool: Spool, sink: Any, prune_before: float | None = None) -> None:
    """Ship all pending records, and then delete segments last written before `prune_before`."""

    async def scenario() -> None:
        async with shipping(spool, sink) as running:
            await until(lambda: running.pending == 0)
            await until(lambda: running.noted == running._at)
            if prune_before is not None:
                spool.prune([running.noted], prune_before)

    asyncio.run(scenario())


def distinct(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def poison(folder: Path, kind: Kind) -> list[dict[str, Any]]:
    path = folder / f"poison-{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
