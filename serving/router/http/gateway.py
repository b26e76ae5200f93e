"""What stands before every request: who may come in, how large it may be, and how many at once.

ASGI middleware around KServe's application, so that KServe's own routes are behind it as well. Reading is free of
charge (probes, `/metrics`, the model's description); everything that may change something has to prove who it is.
A body is read here, up to a size and within a time, before anything works on it: a slow or endless one costs its own
connection and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import orjson

from serving.router.flow.admission import Admission, Saturated
from serving.router.flow.deadline import ARRIVED
from serving.router.http.auth import Authentication
from serving.router.ops import metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_SECONDS = 5.0  # for a body to arrive
_READERS = 256  # bodies that arrive at the same time: what they take of memory is bounded by this and the body's size
_OPEN = ("/metrics", "/health/", "/v2/health/", "/v1/models", "/v2/models")  # GET needs no authentication here
_OUTCOMES = "/v1/outcomes"
_OUTCOME_SECONDS = 1.0


class Gateway:
    """The rules of one router.

    Args:
        authentication: Who may come in.
        max_body_bytes: Largest body.
        max_in_flight: Most requests at work at once.
        seconds: Deadline of a decision.
    """

    def __init__(self, authentication: Authentication, max_body_bytes: int, max_in_flight: int, seconds: float) -> None:
        self.authentication = authentication
        self.max_body_bytes = max_body_bytes
        self.decisions = Admission(max_in_flight, seconds)
        # Outcomes wait for the disk and not for models: they must not take the place of decisions, nor the other way.
        self.outcomes = Admission(max_in_flight, _OUTCOME_SECONDS)
        self.readers = 0

    def admission(self, path: str) -> Admission:
        """Whose turn it is."""
        return self.outcomes if path == _OUTCOMES else self.decisions


class _Refused(Exception):
    def __init__(self, status: int, error: str, *headers: tuple[str, str]) -> None:
        super().__init__(error)
        self.status, self.headers = status, headers


class GatewayMiddleware:
    """Applies the rules of the router that the application holds in its state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gateway: Gateway = scope["app"].state.router.gateway
        try:
            await self._let_in(gateway, scope, receive, send)
        except _Refused as refusal:
            metrics.REFUSED.labels(str(refusal.status)).inc()
            await _answer(send, refusal)

    async def _let_in(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD")
        if not (reads and (path == "/" or path.startswith(_OPEN))) and not gateway.authentication.admits(
            scope["headers"]
        ):
            raise _Refused(401, "who are you? " + gateway.authentication.hint, ("www-authenticate", "Bearer"))
        if reads:
            await self._app(scope, receive, send)
            return
        body = await _read(gateway, scope, receive)
        ARRIVED.set(perf_counter())
        try:
            async with gateway.admission(path).one():
                await self._app(scope, _replay(body, receive), send)
        except Saturated as error:
            raise _Refused(429, f"saturated: {error}; come again later", ("retry-after", "1")) from None


async def _read(gateway: Gateway, scope: Scope, receive: Receive) -> bytes:
    too_large = _Refused(413, f"the body is larger than {gateway.max_body_bytes} bytes")
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > gateway.max_body_bytes:
        raise too_large
    if gateway.readers >= _READERS:
        raise _Refused(429, f"{gateway.readers} bodies are arriving; come again later", ("retry-after", "1"))
    gateway.readers += 1
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            parts, size = [], 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Refused(400, "the connection was closed before the body was complete")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > gateway.max_body_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise _Refused(408, f"the body took longer than {_BODY_SECONDS:g} s") from None
    finally:
        gateway.readers -= 1


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read, then whatever else comes (a disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, refusal: _Refused) -> None:
    body = orjson.dumps({"error": str(refusal)})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
