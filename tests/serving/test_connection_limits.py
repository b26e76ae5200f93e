"""Tests that a slow, large or idle connection costs little before its client is authenticated."""

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from serving.connection_limits import Limits, Shedding, limited
from tests.waiting import until

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
# More than the operating system buffers for a client that does not read.
LARGE = 20_000_000
POST = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n"


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        return head + await self.reader.readexactly(int(length.split()[1]))

    async def closed(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.close()


@dataclass
class Site:
    port: int
    server: uvicorn.Server
    refused: list[int] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    # Whether every POST is refused
    full: bool = False
    # Paths of the requests that reached the application
    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port))


@asynccontextmanager
async def site(**limits: Any) -> AsyncIterator[Site]:
    """Start a server that answers /hold only after `hold` is set, and /large with LARGE bytes."""
    here = Site(0, None)  # type: ignore[arg-type]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        here.seen.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        here.bodies.append(body)
        if scope["path"] == "/hold":
            await here.hold.wait()
        body = b"x" * LARGE if scope["path"] == "/large" else b"ok"
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    shedding = Shedding(lambda method, target: here.full and method == b"POST", 0.05)
    protocol: Any = limited(Limits(**limits), here.refused.append, shedding)
    config = uvicorn.Config(application, port=0, http=protocol, lifespan="off", log_config=None, ws="none")
    here.server = uvicorn.Server(config)
    serving = asyncio.create_task(here.server.serve())
    await until(lambda: here.server.started)
    here.port = here.server.servers[0].sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        here.hold.set()
        here.server.should_exit = True
        await serving


def on_site(**limits: Any) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    def decorate(scenario: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def test(**arguments: Any) -> None:
            async with site(**limits) as here, asyncio.timeout(60):
                await scenario(here, **arguments)

        _, *others = inspect.signature(scenario).parameters.values()
        test.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
        return test

    return decorate


LARGE_HEADS = {
    "one header": [b"GET / HTTP/1.1\r\nx: ", *[b"y" * 65_536] * 50],
    "many headers": [b"GET / HTTP/1.1\r\n", *[b"x: y\r\n" * 10_000] * 5],
    "a few too many": [b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 101 + b"\r\n"],
    "large in all": [b"GET / HTTP/1.1\r\n" + b"".join(b"x: %b\r\n" % (b"y" * 4000) for _ in range(20)) + b"\r\n"],
    "a long address": [b"GET /", *[b"y" * 65_536] * 50],
    "in one piece": [b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\n\r\n"],
    "a chunk's framing": [
        b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
        b"2;",
        *[b"y" * 65_536] * 50,
    ],
}


@pytest.mark.parametrize("pieces", LARGE_HEADS.values(), ids=LARGE_HEADS)
@on_site()
async def test_a_large_head_is_refused_before_it_has_arrived(here: Site, pieces: list[bytes]) -> None:
    attack = await here.connect()
    for piece in pieces:
        attack.writer.write(piece)
    answer = await attack.closed()
    assert answer.startswith(b"HTTP/1.1 431 ") or (b"chunked" in pieces[0] and not answer)
    assert b"32768 bytes" in answer or not answer
    attack.close()
    await until(lambda: not here.server.server_state.connections)
    assert b"200" in await (await here.connect()).ask(GET)


@on_site(seconds=1.0)
async def test_a_request_that_does_not_arrive_in_time_is_refused(here: Site) -> None:
    silent, head, body, second = [await here.connect() for _ in range(4)]
    head.writer.write(b"GET / HTTP/1.1\r\nx: y\r\n")
    body.writer.write(POST + b"x")
    assert b"200 OK" in await second.ask(GET)
    second.writer.write(b"GET / HTTP/1.1\r\n")
    assert await silent.closed() == b""
    assert (await head.closed()).startswith(b"HTTP/1.1 408 ")
    # The application has begun, so a 408 could be mistaken for its answer.
    assert await body.closed() == b""
    assert (await second.closed()).startswith(b"HTTP/1.1 408 ")
    assert here.refused == [408, 408]


@on_site(seconds=0.1)
async def test_an_answer_may_take_longer_than_a_request_may_take_to_arrive(here: Site) -> None:
    connection = await here.connect()
    answer = asyncio.create_task(connection.ask(b"GET /hold HTTP/1.1\r\n\r\n"))
    idle = await here.connect()
    await idle.closed()  # so the time limit has passed
    here.hold.set()
    assert b"200 OK" in await answer
    assert b"200 OK" in await connection.ask(POST + b"body")


@on_site(seconds=2.0)
async def test_a_client_that_does_not_read_is_dropped_and_one_that_reads_gets_all(here: Site) -> None:
    never = socket.create_connection(("127.0.0.1", here.port))
    never.sendall(b"GET /large HTTP/1.1\r\n\r\n" * 3)
    await until(lambda: len(here.server.server_state.tasks) == 1)
    reads = await here.connect()
    assert len(await reads.ask(b"GET /large HTTP/1.1\r\n\r\n")) > LARGE
    reads.close()
    await until(lambda: not here.server.server_state.connections)
    never.close()


@on_site()
async def test_a_large_body_and_pipelined_requests_are_accepted(here: Site) -> None:
    connection = await here.connect()
    large = b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    for _ in range(3):
        assert b"200 OK" in await connection.ask(large)
    connection.writer.write((POST + b"body") * 10)
    assert [b"200 OK" in await connection.ask(b"") for _ in range(10)] == [True] * 10
    connection.writer.write(GET * 1000)
    assert (await connection.closed()).count(b"200 OK") <= 17


@on_site(connections=3)
async def test_a_new_connection_replaces_the_one_that_was_idle_longest(here: Site) -> None:
    first, second, third = [await here.connect() for _ in range(3)]
    await until(lambda: len(here.server.server_state.connections) == 3)
    assert b"200 OK" in await first.ask(GET)  # so the second has been idle longest
    fourth = await here.connect()
    assert b"200 OK" in await fourth.ask(GET)
    assert await second.closed() == b""
    assert [b"200 OK" in await c.ask(GET) for c in (third, first, fourth)] == [True] * 3
    assert not here.refused


@on_site(connections=3)
async def test_a_busy_connection_is_never_replaced(here: Site) -> None:
    busy = [await here.connect() for _ in range(3)]
    answers = [asyncio.create_task(c.ask(b"GET /hold HTTP/1.1\r\n\r\n")) for c in busy]
    await until(lambda: len(here.server.server_state.tasks) == 3)
    assert (await (await here.connect()).closed()).startswith(b"HTTP/1.1 503 ")
    here.hold.set()
    assert [b"200 OK" in await answer for answer in answers] == [True] * 3
    assert here.refused == [503]


@on_site()
async def test_a_full_server_refuses_a_request_unhandled_and_keeps_the_connection(here: Site) -> None:
    connection, old = await here.connect(), await here.connect()
    here.full = True
    for _ in range(3):
        answer = await connection.ask(POST + b"body")
        assert answer.startswith(b"HTTP/1.1 429 ") and b"\r\nretry-after: 1\r\n" in answer
        assert b'"code":"saturated"' in answer and b"connection: close" not in answer
    large = b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    assert b" 429 " in await connection.ask(large)
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    assert b" 429 " in await connection.ask(chunked)
    assert not here.seen and here.refused == [429] * 5
    assert b"200 OK" in await connection.ask(GET)  # metrics and health checks are not refused
    here.full = False
    assert b"200 OK" in await connection.ask(POST + b"body")
    here.full = True
    old.writer.write(POST.replace(b"1.1", b"1.0") + b"body")
    assert b"connection: close" in await old.closed()


@on_site()
async def test_answers_keep_their_order_if_some_requests_are_refused(here: Site) -> None:
    connection = await here.connect()
    here.full = True
    connection.writer.write((POST + b"body") * 2 + GET + POST + b"body")
    found = [(await connection.ask(b"")).split(b" ")[1] for _ in range(4)]
    # The last request arrived during another answer, so it reaches the application, which may refuse it.
    assert found == [b"429", b"429", b"200", b"200"]


@on_site()
async def test_a_client_may_expect_100_continue_or_disconnect(here: Site) -> None:
    here.full = True
    waits = await here.connect()
    waits.writer.write(POST.replace(b"host: h", b"expect: 100-continue"))
    assert (await waits.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    assert b"200 OK" in await waits.ask(b"body")
    gone = await here.connect()
    gone.writer.write(POST + b"body")
    await gone.writer.drain()
    gone.close()
    stays = await here.connect()
    assert b" 429 " in await stays.ask(POST + b"body")


@on_site()
async def test_a_server_that_stops_still_sends_its_refusals(here: Site) -> None:
    here.full = True
    connection = await here.connect()
    connection.writer.write(POST + b"body")
    await asyncio.sleep(0.01)
    here.server.should_exit = True
    assert (await connection.closed()).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("pieces", [1, 2, 40])
@on_site()
async def test_a_request_that_offers_http_2_is_answered_in_http_1_1(here: Site, pieces: int) -> None:
    """Java's HTTP client and `curl --http2` offer HTTP/2. The body must not be read as a request."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    post = b"POST /offered HTTP/1.1\r\nhost: h\r\n" + offer + b"content-length: 13\r\n\r\nGET /smuggled"
    step = -(-len(post) // pieces)
    connection = await here.connect()
    for start in range(0, len(post), step):
        connection.writer.write(post[start : start + step])
        await connection.writer.drain()
        await asyncio.sleep(0.002)
    answer = await connection.ask(GET)
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ok")
    assert (await connection.ask(b"")).endswith(b"ok"), "the connection stays open"
    assert here.seen == ["/offered", "/"] and here.bodies == [b"GET /smuggled", b""]
    connection.close()


@on_site()
async def test_a_client_leaving_amid_several_requests_is_no_error(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    connection = await here.connect()
    connection.writer.write(GET.replace(b"/ ", b"/hold ", 1) + GET)
    await until(lambda: here.seen == ["/hold"])
    connection.close()
    await until(lambda: not here.server.server_state.connections)
    here.hold.set()
    await until(lambda: not here.server.server_state.tasks)
    assert here.seen == ["/hold"], "the second request is dropped"
    assert not caplog.records
