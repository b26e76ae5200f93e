"""The router's ASGI application: checks requests, answers the router's routes, and passes others to KServe.

It uses no web framework, because a framework would take as much CPU time as the decision itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

import orjson
from starlette.types import Message as Event
from starlette.types import Receive, Scope, Send

from mtorl.runtime.message import Message
from mtorl.runtime.validation import validated
from serving.connection_limits import SATURATED
from serving.decision_log import SpoolUnavailable
from serving.kserve_sdk import Model, application
from serving.messages import REQUEST_TOO_SLOW
from serving.router import messages
from serving.router.flow.admission import Admission, Saturated
from serving.router.flow.idempotency_cache import RequestConflict
from serving.router.flow.requests import BadRequest, parse_json
from serving.router.http import openapi, v2
from serving.router.http.auth import Authentication, Headers
from serving.router.ops import metrics, tracing
from serving.router.ops.drills import Drill
from serving.router.ops.settings import RouterSettings
from serving.router.router import Router

BODY_SECONDS = 5.0  # seconds within which a body must arrive
_MOST_READERS = 256  # most bodies received at the same time, to limit memory
_PUBLIC = ("/metrics", "/health/", "/v2/health/", "/v1/models", "/v2/models")  # GET needs no token for these paths
_HEADERS = {401: (b"www-authenticate", b"Bearer"), 429: (b"retry-after", b"1"), 503: (b"retry-after", b"2")}

Answer = tuple[int, Any]
"""An HTTP answer: the status, and a value that is sent as JSON."""
Work = Callable[[bytes, Headers], Awaitable[Answer]]
"""Type of a function that answers a request, given its body and its headers. Names of headers are in lower case."""


class _Refused(Exception):
    def __init__(self, status: int, error: Message) -> None:
        self.status, self.error = status, error


class Gateway:
    """The ASGI application of a router."""

    def __init__(self, router: Router, settings: RouterSettings) -> None:
        model = Model(settings.model_name)
        model.ready = True
        self._authentication = Authentication(settings.auth)
        self.decisions = router.decision_admission
        self.readers = 0
        self._max_body_bytes = settings.max_body_bytes
        self._health = router.health
        self._kserve = application([model])
        # KServe answers these readiness probes with yes even while the router waits.
        self._probes = ("/v2/health/ready", f"/v1/models/{model.name}", f"/v2/models/{model.name}/ready")
        self._routes = _routes(router, model.name, self._authentication.needed)

    def sheds(self, method: bytes, target: bytes) -> bool:
        """Whether the router is full, so that a request is refused before it is parsed."""
        if method != b"POST" or target.startswith(b"/v1/outcomes"):
            return False
        refused = self.decisions.full
        self.decisions.coming += not refused
        return refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        path, method, headers = scope["path"], scope["method"], scope["headers"]
        more: list[tuple[bytes, bytes]] = []
        if method == "POST" and not path.startswith("/v1/outcomes"):  # counted by `sheds`
            self.decisions.coming = max(self.decisions.coming - 1, 0)
        try:
            self._check(path, method, headers)
            body = b"" if method in ("GET", "HEAD") else await self._read(headers, receive)
            if (works := self._routes.get(path)) is None:
                await self._kserve(scope, _replay(body, receive), send)
                return
            if (work := works.get(method)) is not None:
                status, answer = await work(body, headers)
            else:
                allowed = ", ".join(works)
                status, answer = 405, messages.NOT_ALLOWED(method=method, allowed=allowed).body
                more.append((b"allow", allowed.encode()))
        except _Refused as refusal:
            status, answer = _refusal(refusal.status, refusal.error)
        except Saturated:
            status, answer = _refusal(429, SATURATED)
        content = orjson.dumps(answer, default=str)
        more += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        if status in _HEADERS:
            more.append(_HEADERS[status])
        await send({"type": "http.response.start", "status": status, "headers": more})
        await send({"type": "http.response.body", "body": content})

    def _check(self, path: str, method: str, headers: Headers) -> None:
        reads = method in ("GET", "HEAD")
        public = reads and (path == "/" or path.startswith(_PUBLIC))
        if not public and not self._authentication.admits(headers):
            raise _Refused(401, messages.NOT_AUTHENTICATED())
        if (waits := self._health.waiting_for) is not None and (not reads or path in self._probes):
            raise _Refused(503, waits)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        length = dict(headers).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise _Refused(413, messages.BODY_TOO_LARGE(most=self._max_body_bytes))
        if self.readers >= _MOST_READERS:
            raise _Refused(429, SATURATED)
        self.readers += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                parts, size = [], 0
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refused(400, messages.BODY_INCOMPLETE())
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body_bytes:
                        raise _Refused(413, messages.BODY_TOO_LARGE(most=self._max_body_bytes))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise _Refused(408, REQUEST_TOO_SLOW(seconds=BODY_SECONDS)) from None
        finally:
            self.readers -= 1


def _refusal(status: int, error: Message) -> Answer:
    metrics.REFUSED.labels(str(status)).inc()
    return status, error.body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` function that gives a body, and then later events."""
    events: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Event:
        return events.pop() if events else await receive()

    return again


def _routes(router: Router, model: str, token: bool) -> dict[str, dict[str, Work]]:
    async def decide(body: bytes, _: Headers) -> Any:
        return {"predictions": await router.decider.decide(router.parser.parse(body))}

    async def infer(body: bytes, headers: Headers) -> Any:
        json_bytes = dict(headers).get(b"inference-header-content-length")
        requests, request_id = v2.parse_request(body, json_bytes, router.parser)
        return v2.build_response(model, request_id, await router.decider.decide(requests))

    async def report(body: bytes, _: Headers) -> Any:
        return await router.outcomes.accept(body)

    async def drills(method: str, body: bytes, _: Headers) -> Answer:
        if (drills := router.drills) is None:
            return 404, messages.NO_DRILLS().body
        try:
            if method == "POST":
                drills.start(validated(Drill, parse_json(body), BadRequest))
            elif method == "DELETE":
                drills.stop()
        except BadRequest as error:
            return 400, error.reason.body
        return 200, {"drills": drills.in_force()}

    async def live(*_: object) -> Answer:
        good, state = router.health.live()
        return (200 if good else 503), state

    async def ready(*_: object) -> Answer:
        good, state = router.health.ready(lambda: router.spool.alive)
        return (200 if good else 503), state

    @cache
    def document() -> Any:
        return openapi.document(model, router.parser.example, router.parser.body, router.outcome_parser.body, token)

    async def described(*_: object) -> Answer:
        return 200, document()

    return {
        f"/v1/models/{model}:predict": {"POST": partial(_admitted, "decide", router.decision_admission, decide)},
        f"/v2/models/{model}/infer": {"POST": partial(_admitted, "decide", router.decision_admission, infer)},
        "/v1/outcomes": {"POST": partial(_admitted, "outcomes", router.outcome_admission, report)},
        "/v1/drills": {method: partial(drills, method) for method in ("GET", "POST", "DELETE")},
        "/openapi.json": {"GET": described},
        "/health/live": {"GET": live},
        "/health/ready": {"GET": ready},
    }


async def _admitted(
    span: str, admission: Admission, work: Callable[[bytes, Headers], Awaitable[Any]], body: bytes, headers: Headers
) -> Answer:
    """Do the work for a request once it is admitted; raises Saturated."""
    with tracing.request(span, headers) as traced:
        async with admission.admit():
            answer: Answer
            try:
                answer = 200, await work(body, headers)
            except BadRequest as error:
                answer = 400, error.reason.body
            except RequestConflict as error:
                answer = 409, error.args[0].body
            except SpoolUnavailable as error:
                # A 200 would tell the caller that the outcomes are on disk.
                answer = 503, messages.NOT_STORED(error=str(error)).body
        tracing.answered(traced, answer[0])
    return answer
