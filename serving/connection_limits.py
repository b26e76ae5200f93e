"""Adds limits to uvicorn's HTTP protocol, so that slow, large or too many requests cost little before they are handled.

uvicorn's own settings do not suffice:
- `limit_concurrency` counts complete heads only, so a connection that never completes a head stays open forever.
- `h11_max_incomplete_event_size` works with h11 only, which takes more CPU than httptools for each request.
- `timeout_keep_alive` stops counting at the first byte of the next request.
If a head, a trailer or chunk framing arrives in pieces, the event loop copies all of it again with each piece. So its
size and the time until it is complete are limited. A refused client gets 431, 408 or 503 where HTTP allows an answer.

A full server refuses requests with 429 as soon as their head has arrived, without creating a task, a scope and an
application. If requests arrive at twice the server's capacity, every second one is refused in this way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mtorl.runtime.message import Message
from serving import messages

_LINGER_SECONDS = 1.0  # a refused client must stop sending before the connection closes, or it loses the answer
_MOST_PIPELINED = 16  # requests of one connection that wait while an earlier one is answered
SATURATED = messages.SATURATED()
_TOO_MANY = messages.TOO_MANY_CONNECTIONS()


@dataclass(frozen=True)
class Limits:
    """Limits on each connection, and on the number of connections.

    `seconds` limits three waits: until a request has arrived with its body, until a new connection has sent its first
    request, and until a client has read an answer. `connections` exceeds the number of requests that `admission.py`
    admits and queues. It is below 1,024, the usual limit of open files per process.
    """

    head_bytes: int = 32 * 1024  # size of a request without its body
    headers: int = 100  # lines of a head, and lines of the trailer of a chunked body
    seconds: float = 10.0
    connections: int = 800


@dataclass(frozen=True)
class Shedding:
    """A rule that decides, by method and target, which requests are refused as soon as their head has arrived."""

    refuses: Callable[[bytes, bytes], bool] = lambda method, target: False
    seconds: float = 0.0  # delay of the refusal, so that immediate retries do not keep the server busy


NO_SHEDDING = Shedding()


class LimitedProtocol(HttpToolsProtocol):
    """A connection with limits."""

    def __init__(
        self,
        limits: Limits,
        shedding: Shedding,
        waiting: OrderedDict[LimitedProtocol, None],
        refused: Callable[[int], None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._limits = limits
        self._shedding = shedding
        self._waiting = waiting  # the server's connections without a request in progress, longest idle first
        self._refused = refused  # called with the status of each refusal
        self._arriving: asyncio.TimerHandle | None = None  # runs while a request arrives
        self._leaving: asyncio.TimerHandle | None = None  # runs while an answer waits for its client
        self._began = False  # whether any byte of the arriving request was received
        self._not_body = 0  # received bytes of the arriving request that are outside its body
        self._parsed = 0  # bytes of the target and headers that the parser has reported so far
        self._fault: tuple[int, Message] | None = None
        self._at_work: RequestResponseCycle | None = None  # the request in progress; later ones wait in `pipeline`
        self._sheds = False  # whether the arriving request is refused
        self._telling: asyncio.TimerHandle | None = None  # runs until the refusal is sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection. At the limit, it replaces the connection that has been idle longest."""
        super().connection_made(transport)
        self._waiting[self] = None
        self._arriving = self.loop.call_later(self._limits.seconds, self._too_slow)
        if len(self.connections) > self._limits.connections:
            longest, _ = self._waiting.popitem(last=False)
            if longest is self:  # every other connection has a request in progress
                self._answer(503, _TOO_MANY)
                self.transport.close()
            else:
                longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers of the connection, and mark its request as disconnected."""
        self._arrived()
        self._left()
        if self._telling is not None:
            self._telling.cancel()
        self._waiting.pop(self, None)
        if self._at_work is not None:  # uvicorn marks only the newest request, which may still wait in `pipeline`
            self._at_work.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._fault:
            return
        if self._arriving is None:
            self._arriving = self.loop.call_later(self._limits.seconds, self._too_slow)
        self._began = True
        self._not_body += len(data)
        self._feed(data)
        if self._not_body > self._limits.head_bytes:
            self._refuse(431, self._too_large())

    def _feed(self, data: bytes) -> None:
        """Replace uvicorn's parsing, which loses the body of a request that offers an upgrade (`_other_protocol`)."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            head = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
            head += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"\r\n".join([*head, b"", data[offer.args[0] :]]))
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _other_protocol(self) -> bool:
        """Whether the request offers an upgrade, as Java's client and `curl --http2` offer HTTP/2.

        The offer is ignored, as RFC 9110, 7.8 allows. Because the parser does not read the body of such a request,
        `_feed` passes it the request again without the offer.
        """
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._parsed = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse the request, pass it on, or queue it behind earlier requests of the connection."""
        if self._other_protocol():
            return
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._stop(429, SATURATED)
        self._waiting.pop(self, None)
        self._tell()  # send a delayed refusal of the previous request first: answers keep the order of requests
        # A request is not shed while an earlier answer is due, or if the client waits for "100 Continue".
        idle = (self.cycle is None or self.cycle.response_complete) and not self.expect_100_continue
        self._sheds = idle and self._shedding.refuses(self.parser.get_method(), self.url)
        if not self._sheds:
            super().on_headers_complete()
            if not self.pipeline:
                self._at_work = self.cycle

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._not_body -= len(body)
        if not self._sheds:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived."""
        if self._other_protocol():
            return
        self._arrived()
        if self._sheds:
            self._telling = self.loop.call_later(self._shedding.seconds, self._tell)
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent."""
        if self.pipeline:
            self._at_work, _ = self.pipeline[-1]
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._waiting[self] = None

    def pause_writing(self) -> None:
        """The client reads the answer more slowly than it is written."""
        super().pause_writing()
        self._leaving = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._left()
        super().resume_writing()

    def shutdown(self) -> None:
        """The server stops."""
        self._tell()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Abort an idle connection. `close` would wait for a client that has not read its last answer."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request whose parsing stopped, either because of `_stop` or because the bytes are not HTTP."""
        self._refuse(*(self._fault or (400, messages.INVALID(fault=msg))))

    def _tell(self) -> None:
        if self._telling is None:
            return
        self._telling.cancel()
        self._telling = None
        ends = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        self._answer(429, SATURATED, ends)
        if ends:
            self.transport.close()
        self.on_response_complete()

    def _arrived(self) -> None:
        self._began, self._not_body = False, 0
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _left(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _count(self, size: int) -> None:
        """Limit a head that arrives in one piece; `data_received` limits a head that arrives in several."""
        self._parsed += size
        if self._parsed > self._limits.head_bytes or len(self.headers) >= self._limits.headers:
            self._stop(431, self._too_large())

    def _too_large(self) -> Message:
        return messages.HEAD_TOO_LARGE(headers=self._limits.headers, size=self._limits.head_bytes)

    def _stop(self, status: int, error: Message) -> None:
        """Stop the parser, which then calls `send_400_response`."""
        self._fault = status, error
        raise ValueError(error)

    def _too_slow(self) -> None:
        if self._began:
            self._refuse(408, messages.REQUEST_TOO_SLOW(seconds=self._limits.seconds))
        else:
            self.transport.abort()

    def _refuse(self, status: int, error: Message) -> None:
        self._fault = status, error
        self._arrived()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # the client would take a refusal for the answer to the request in progress
            return
        self._answer(status, error)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _answer(self, status: int, error: Message, ends: bool = True) -> None:
        self._refused(status)
        self.transport.write(_refusal(status, error, ends))


@cache
def _refusal(status: int, error: Message, ends: bool) -> bytes:
    body = orjson.dumps(error.body)
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head += "retry-after: 1\r\n" * (status in (429, 503)) + "connection: close\r\n" * ends + "\r\n"
    return STATUS_LINE[status] + head.encode() + body


def limited(
    limits: Limits, refused: Callable[[int], None], shedding: Shedding = NO_SHEDDING
) -> Callable[..., LimitedProtocol]:
    """The protocol class of one server, for uvicorn's setting `http`."""
    return partial(LimitedProtocol, limits, shedding, OrderedDict(), refused)
