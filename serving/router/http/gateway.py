"""The router's ASGI application: guards every request, answers the router's own, and passes others on to KServe's.

A request for decisions passes nothing but this file and `app.py`: a framework's routing and middleware would take as
much CPU as the decision's own way through the event loop.

GET of probes, `/metrics` and the model's description needs no authentication; every request that may change something
needs it. A body is read here, up to a size and within a time: a slow or endless one holds up its own connection alone.
"""

import asyncio
from collections.abc import Iterable

import orjson
from starlette.types import Message, Receive, Scope, Send

from serving.connection_limits import SATURATED
from serving.kserve_sdk import Model, application
from serving.router.flow.admission import Saturated
from serving.router.http.app import Answer, routes
from serving.router.http.auth import Authentication
from serving.router.ops import metrics
from serving.router.ops.settings import RouterSettings
from serving.router.router import Router

BODY_SECONDS = 5.0  # for a body to arrive
_MOST_READERS = 256  # bodies that arrive at the same time; with the size of a body, this bounds memory
_PUBLIC = ("/metrics", "/health/", "/v2/health/", "/v1/models", "/v2/models")  # GET needs no authentication here
_HEADERS = {401: (b"www-authenticate", b"Bearer"), 429: (b"retry-after", b"1"), 503: (b"retry-after", b"2")}


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Gateway:
    """The application of one router; `readers` counts the bodies that are arriving."""

    def __init__(self, router: Router, settings: RouterSettings) -> None:
        model = Model(settings.model_name)
        model.ready = True
        self._authentication = Authentication(settings.auth)
        self.decisions = router.decision_admission
        self.readers = 0
        self._max_body_bytes = settings.max_body_bytes
        self._health = router.health
        self._kserve = application([model])
        # KServe's own answer to these probes is always yes.
        self._probes = ("/v2/health/ready", f"/v1/models/{model.name}", f"/v2/models/{model.name}/ready")
        self._routes = routes(router, model.name, self._authentication.needed)

    def sheds(self, method: bytes, target: bytes) -> bool:
        """Whether a request is refused for want of room before it is parsed, authenticated or not."""
        return self.decisions.full and method == b"POST" and not target.startswith(b"/v1/outcomes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        path, method, headers = scope["path"], scope["method"], scope["headers"]
        more: list[tuple[bytes, bytes]] = []
        try:
            self._check(path, method, headers)
            body = b"" if method in ("GET", "HEAD") else await self._read(headers, receive)
            if (works := self._routes.get(path)) is None:
                await self._kserve(scope, _replay(body, receive), send)
                return
            if (work := works.get(method)) is not None:
                status, answer = await work(body, headers)
            else:
                status, answer = 405, {"error": "Method Not Allowed"}
                more.append((b"allow", ", ".join(works).encode()))
        except _Refused as refusal:
            status, answer = _refusal(refusal.status, str(refusal))
        except Saturated:
            status, answer = _refusal(429, SATURATED)
        content = orjson.dumps(answer)
        more += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        if status in _HEADERS:
            more.append(_HEADERS[status])
        await send({"type": "http.response.start", "status": status, "headers": more})
        await send({"type": "http.response.body", "body": content})

    def _check(self, path: str, method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        reads = method in ("GET", "HEAD")
        public = reads and (path == "/" or path.startswith(_PUBLIC))
        if not public and not self._authentication.admits(headers):
            raise _Refused(401, "not authenticated: send Authorization: Bearer with a valid token")
        if not self._health.started and (not reads or path in self._probes):
            raise _Refused(503, f"no decisions yet: {self._health.waiting_for}")

    async def _read(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
        too_large = _Refused(413, f"the body is larger than {self._max_body_bytes} bytes")
        length = dict(headers).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise too_large
        if self.readers >= _MOST_READERS:
            raise _Refused(429, "too many bodies are arriving; retry later")
        self.readers += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                parts, size = [], 0
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refused(400, "the connection was closed before the body was complete")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise _Refused(408, f"the body took longer than {BODY_SECONDS:g} s") from None
        finally:
            self.readers -= 1


def _refusal(status: int, error: str) -> Answer:
    metrics.REFUSED.labels(str(status)).inc()
    return status, {"error": error}


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
