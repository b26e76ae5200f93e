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

# A client needs this time to read a refusal.
_LINGER_SECONDS = 1.0
_MOST_PIPELINED = 16  # most requests that may wait on one connection
SATURATED = messages.SATURATED()
_TOO_MANY = messages.TOO_MANY_CONNECTIONS()


@dataclass(frozen=True)
class Limits:
    """Limits on the connections of one server.

    Attributes:
        seconds: Timeout for receiving a request, and for a client that reads the answer slowly.
        connections: Largest number of open connections. The process must be allowed to open more files than this.
    """

    head_bytes: int = 32 * 1024  # largest size of a request without its body
    headers: int = 100  # most header lines, including trailers
    seconds: float = 10.0
    connections: int = 800


@dataclass(frozen=True)
class Shedding:
    """A rule that refuses requests by method and URL as soon as their headers have arrived."""

    refuses: Callable[[bytes, bytes], bool] = lambda method, target: False
    seconds: float = 0.0  # delay of a refusal, because clients may retry at once


NO_SHEDDING = Shedding()


class LimitedProtocol(HttpToolsProtocol):
    """An HTTP connection of uvicorn that enforces the limits."""

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
        self._waiting = waiting  # the server's idle connections, longest idle first
        self._refused = refused  # called with the HTTP status of each refused request
        self._arriving: asyncio.TimerHandle | None = None  # timeout for the rest of the request
        self._leaving: asyncio.TimerHandle | None = None  # timeout for a client that reads slowly
        self._began = False  # whether the request's first byte has arrived
        self._not_body = 0  # bytes received of the request, without its body
        self._parsed = 0  # bytes parsed of the request's URL and headers
        self._fault: tuple[int, Message] | None = None
        # The request that is being answered. Later requests wait in `pipeline`.
        self._at_work: RequestResponseCycle | None = None
        self._sheds = False  # whether `shedding` refuses the request
        self._telling: asyncio.TimerHandle | None = None  # sends a delayed refusal

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register a new connection. If there are too many, abort the longest idle one."""
        super().connection_made(transport)
        self._waiting[self] = None
        self._arriving = self.loop.call_later(self._limits.seconds, self._too_slow)
        if len(self.connections) > self._limits.connections:
            longest, _ = self._waiting.popitem(last=False)
            if longest is self:  # no other connection is idle
                self._answer(503, _TOO_MANY)
                self.transport.close()
            else:
                longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and mark the request in progress as disconnected."""
        self._arrived()
        self._left()
        if self._telling is not None:
            self._telling.cancel()
        self._waiting.pop(self, None)
        # uvicorn marks only the newest request as disconnected.
        if self._at_work is not None:
            self._at_work.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and refuse a request with too large headers."""
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
        """Parse bytes, without an offer to switch the protocol, which would lose the request's body."""
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
        """Whether the request offers to switch to another protocol (RFC 9110, section 7.8)."""
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def on_message_begin(self) -> None:
        """Reset the count of parsed bytes."""
        super().on_message_begin()
        self._parsed = 0

    def on_url(self, url: bytes) -> None:
        """Count the bytes of a part of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header or trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse the request, pass it to the application, or queue it."""
        if self._other_protocol():
            return
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._stop(429, SATURATED)
        self._waiting.pop(self, None)
        # Answers must keep the order of requests.
        self._tell()
        # Answers must keep their order, and a client may wait for "100 Continue".
        idle = (self.cycle is None or self.cycle.response_complete) and not self.expect_100_continue
        self._sheds = idle and self._shedding.refuses(self.parser.get_method(), self.url)
        if not self._sheds:
            super().on_headers_complete()
            if not self.pipeline:
                self._at_work = self.cycle

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._not_body -= len(body)
        if not self._sheds:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the timeout of a complete request."""
        if self._other_protocol():
            return
        self._arrived()
        if self._sheds:
            self._telling = self.loop.call_later(self._shedding.seconds, self._tell)
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin with the next waiting request, if any."""
        if self.pipeline:
            self._at_work, _ = self.pipeline[-1]
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._waiting[self] = None

    def pause_writing(self) -> None:
        """Start a timeout when the client reads the answer too slowly."""
        super().pause_writing()
        self._leaving = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the timeout of a slow reader."""
        self._left()
        super().resume_writing()

    def shutdown(self) -> None:
        """Send a delayed refusal at once."""
        self._tell()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Abort an idle connection. `close` would wait forever for a client that does not read."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse an invalid request."""
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
        """Count parsed bytes and headers, and refuse the request at a limit."""
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
            self.transport.abort()  # a refusal would look like the answer to the earlier request
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
    """Return the function with which uvicorn creates a connection's protocol object."""
    return partial(LimitedProtocol, limits, shedding, OrderedDict(), refused)
