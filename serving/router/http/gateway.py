"""What every request passes first: authentication, a limit to its size, and a limit to how many are worked on at once.

ASGI middleware around KServe's application, so that KServe's own routes are behind it as well. GET of probes,
`/metrics` and the model's description needs no authentication; every request that may change something needs it.

A body is read here, up to a size and within a time, before anything works on it: a slow or endless one holds up its own
connection and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from serving.router.flow.admission import Admission, Saturated
from serving.router.http.auth import Authentication
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 5.0  # for a body to arrive
RETRY_AFTER = "2"  # seconds, while no decisions can be made
_MOST_READERS = 256  # bodies that arrive at the same time; with the size of a body, this bounds their memory
_PUBLIC = ("/metrics", "/health/", "/v2/health/", "/v1/models", "/v2/models")  # GET needs no authentication here
_OUTCOMES = "/v1/outcomes"
_DECISIONS = (":predict", "/infer")


class Gateway:
    """The rules of one router.

    Args:
        authentication: Who may send requests.
        max_body_bytes: Largest body.
        decisions: How many requests for decisions may be worked on.
        outcomes: How many reports of outcomes.
        health: Says why no decisions can be made yet.

    Attributes:
        readers: Bodies that are arriving.
    """

    def __init__(
        self,
        authentication: Authentication,
        max_body_bytes: int,
        decisions: Admission,
        outcomes: Admission,
        health: Health,
    ) -> None:
        self.authentication = authentication
        self.max_body_bytes = max_body_bytes
        self.decisions = decisions
        self.outcomes = outcomes
        self.health = health
        self.readers = 0

    def admission(self, path: str) -> Admission:
        """The limit that a request falls under."""
        return self.outcomes if path == _OUTCOMES else self.decisions

    def sheds(self, method: bytes, target: bytes) -> bool:
        """Whether a request is refused for want of room before it is looked at, be it authenticated or not."""
        return self.decisions.full and method == b"POST" and not target.startswith(_OUTCOMES.encode())


class _Refused(Exception):
    def __init__(self, status: int, error: str, *headers: tuple[str, str]) -> None:
        super().__init__(error)
        self.status, self.headers = status, headers


class GatewayMiddleware:
    """Applies the rules of the gateway that the application holds in its state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gateway: Gateway = scope["app"].state.gateway
        try:
            await self._pass_on(gateway, scope, receive, send)
        except _Refused as refusal:
            metrics.REFUSED.labels(str(refusal.status)).inc()
            await _answer(send, refusal)

    async def _pass_on(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD")
        public = reads and (path == "/" or path.startswith(_PUBLIC))
        if not public and not gateway.authentication.admits(scope["headers"]):
            raise _Refused(401, "not authenticated: " + gateway.authentication.hint, ("www-authenticate", "Bearer"))
        # KServe's own answer to the probe is always yes.
        if not gateway.health.started and (not reads or path == "/v2/health/ready"):
            raise _Refused(503, f"no decisions yet: {gateway.health.waiting_for}", ("retry-after", RETRY_AFTER))
        if reads:
            await self._app(scope, receive, send)
            return
        body = await _read(gateway, scope, receive)
        what = "outcomes" if path == _OUTCOMES else "decide" if path.endswith(_DECISIONS) else "other"
        try:
            with tracing.request(what, scope["headers"]) as span:
                async with gateway.admission(path).admit():
                    await self._app(scope, _replay(body, receive), tracing.watched(span, send))
        except Saturated as error:
            raise _Refused(429, f"saturated: {error}; come again later", ("retry-after", "1")) from None


async def _read(gateway: Gateway, scope: Scope, receive: Receive) -> bytes:
    too_large = _Refused(413, f"the body is larger than {gateway.max_body_bytes} bytes")
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > gateway.max_body_bytes:
        raise too_large
    if gateway.readers >= _MOST_READERS:
        raise _Refused(429, f"{gateway.readers} bodies are arriving; come again later", ("retry-after", "1"))
    gateway.readers += 1
    try:
        async with asyncio.timeout(BODY_SECONDS):
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
        raise _Refused(408, f"the body took longer than {BODY_SECONDS:g} s") from None
    finally:
        gateway.readers -= 1


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand on the body that was read, then whatever else comes (a disconnect)."""
    delivered = False

    async def again() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, refusal: _Refused) -> None:
    body = orjson.dumps({"error": str(refusal)})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
