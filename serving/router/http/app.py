"""The router's own routes: decisions in protocols v1 and v2, outcomes, probes, drills, and the OpenAPI document."""

from collections.abc import Awaitable, Callable, Iterable
from functools import cache, partial
from typing import Any

from mtorl.runtime.validation import validated
from serving.decision_log import SpoolUnavailable
from serving.router.flow.admission import Admission
from serving.router.flow.idempotency_cache import RequestConflict
from serving.router.flow.requests import BadRequest, parse_json
from serving.router.http import v2
from serving.router.http.openapi import document
from serving.router.ops import tracing
from serving.router.ops.drills import Drill
from serving.router.router import Router

Headers = Iterable[tuple[bytes, bytes]]
Answer = tuple[int, Any]
"""Status, and what becomes JSON."""
Work = Callable[[bytes, Headers], Awaitable[Answer]]
"""Answers a request by its body and its headers, whose names are in lower case."""


def routes(router: Router, model: str, token: bool) -> dict[str, dict[str, Work]]:
    """What answers a request, by path and method; `token`: callers need one."""

    async def decide(body: bytes, _: Headers) -> Any:
        return {"predictions": await router.decider.decide(router.parser.parse(body))}

    async def infer(body: bytes, headers: Headers) -> Any:
        json_bytes = dict(headers).get(b"inference-header-content-length")
        requests, request_id = v2.parse_request(body, json_bytes, router.parser)
        return v2.build_response(model, request_id, await router.decider.decide(requests))

    async def report(body: bytes, _: Headers) -> Any:
        return await router.outcomes.accept(body)

    async def live(_: bytes, __: Headers) -> Answer:
        return _probed(*router.health.live())

    async def ready(_: bytes, __: Headers) -> Answer:
        return _probed(*router.health.ready(lambda: router.spool.alive))

    @cache
    def described() -> Any:
        return document(model, router.parser.example, router.parser.body, router.outcome_parser.body, token)

    async def openapi(_: bytes, __: Headers) -> Answer:
        return 200, described()

    return {
        f"/v1/models/{model}:predict": {"POST": partial(_admitted, "decide", router.decision_admission, decide)},
        f"/v2/models/{model}/infer": {"POST": partial(_admitted, "decide", router.decision_admission, infer)},
        "/v1/outcomes": {"POST": partial(_admitted, "outcomes", router.outcome_admission, report)},
        "/v1/drills": {method: partial(_drills, router, method) for method in ("GET", "POST", "DELETE")},
        "/openapi.json": {"GET": openapi},
        "/health/live": {"GET": live},
        "/health/ready": {"GET": ready},
    }


def _probed(good: bool, state: dict[str, Any]) -> Answer:
    return (200 if good else 503), state


async def _admitted(
    span: str,
    admission: Admission,
    work: Callable[[bytes, Headers], Awaitable[Any]],
    body: bytes,
    headers: Headers,
) -> Answer:
    """The work's answer once there is room; raises Saturated."""
    with tracing.request(span, headers) as traced:
        async with admission.admit():
            answer: Answer
            try:
                answer = 200, await work(body, headers)
            except BadRequest as error:
                answer = 400, {"error": str(error)}
            except RequestConflict as error:
                answer = 409, {"error": str(error)}
            except SpoolUnavailable as error:
                # An outcome that is not on disk must not be called accepted: the one inner fault that is a 5xx.
                answer = 503, {"error": f"not stored, send all of it again: {error}"}
        tracing.answered(traced, answer[0])
    return answer


async def _drills(router: Router, method: str, body: bytes, _: Headers) -> Answer:
    drills = router.drills
    if drills is None:
        return 404, {"error": "there are no drills here; the setting `drills: true` allows them"}
    if method == "POST":
        try:
            drills.start(validated(Drill, parse_json(body), BadRequest))
        except BadRequest as error:
            return 400, {"error": str(error)}
    elif method == "DELETE":
        drills.stop()
    return 200, {"drills": drills.in_force()}
