"""Guards every request: authentication, a limit to its size, and a limit to the requests in flight.

ASGI middleware around KServe's application, so that KServe's own routes are behind it as well. GET of probes,
`/metrics` and the model's description needs no authentication; every request that may change something needs it.

A body is read here, up to a size and within a time: a slow or endless one holds up its own connection alone.
"""

from __future__ import annotations

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.router.flow.admission import Saturated
from serving.router.http.auth import Authentication
from serving.router.ops import metrics, tracing
from serving.router.router import Router

BODY_SECONDS = 5.0  # for a body to arrive
RETRY_AFTER = "2"  # seconds, while no decisions can be made
_MOST_READERS = 256  # bodies that arrive at the same time; with the size of a body, this bounds memory
_PUBLIC = ("/metrics", "/health/", "/v2/health/", "/v1/models", "/v2/models")  # GET needs no authentication here
_OUTCOMES = "/v1/outcomes"
_DECISIONS = (":predict", "/infer")


class Gateway:
    """The rules of one router; `readers` counts the bodies that are arriving."""

    def __init__(self, authentication: Authentication, max_body_bytes: int, router: Router) -> None:
        self.authentication = authentication
        self.max_body_bytes = max_body_bytes
        self.decisions = router.decision_admission
        self.outcomes = router.outcome_admission
        self.health = router.health
        self.readers = 0

    def sheds(self, method: bytes, target: bytes) -> bool:
        """Whether a request is refused for want of room before it is parsed, authenticated or not."""
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
            answer = JSONResponse({"error": str(refusal)}, refusal.status, dict(refusal.headers))
            await answer(scope, receive, send)

    async def _pass_on(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD")
        public = reads and (path == "/" or path.startswith(_PUBLIC))
        if not public and not gateway.authentication.admits(scope["headers"]):
            raise _Refused(401, "not authenticated: " + gateway.authentication.hint, ("www-authenticate", "Bearer"))
        # KServe's own answer to this probe is always yes.
        if not gateway.health.started and (not reads or path == "/v2/health/ready"):
            raise _Refused(503, f"no decisions yet: {gateway.health.waiting_for}", ("retry-after", RETRY_AFTER))
        if reads:
            await self._app(scope, receive, send)
            return
        body = await _read(gateway, scope, receive)
        what = "outcomes" if path == _OUTCOMES else "decide" if path.endswith(_DECISIONS) else "other"
        try:
            with tracing.request(what, scope["headers"]) as span:
                async with (gateway.outcomes if path == _OUTCOMES else gateway.decisions).admit():
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
    """Hand on the body that was read, then later messages (a disconnect)."""
    delivered = False

    async def again() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
