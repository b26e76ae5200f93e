"""HTTP: the KServe model, and the routes that KServe does not have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mtorl.runtime.validation import first_fault, place
from serving.decision_log import SpoolUnavailable
from serving.kserve_sdk import Model, correct
from serving.router.flow.idempotency_cache import RequestConflict
from serving.router.flow.requests import BadRequest, parse_json
from serving.router.http import v2
from serving.router.http.auth import Authentication
from serving.router.http.gateway import RETRY_AFTER, GatewayMiddleware
from serving.router.http.openapi import document
from serving.router.ops.drills import Drill
from serving.router.router import Router


class Post:
    """A route without FastAPI's routing and KServe's own route of protocol v1, which take more CPU."""

    def __init__(self, answer: Callable[[Router, bytes], Awaitable[dict[str, Any]]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a body."""
        if scope["method"] != "POST":  # a route of POST alone would leave GET to KServe's route of a model
            raise HTTPException(405, headers={"allow": "POST"})
        answer = await self._answer(scope["app"].state.router, await Request(scope, receive).body())
        await Response(orjson.dumps(answer), media_type="application/json")(scope, receive, send)


async def _decide(router: Router, body: bytes) -> dict[str, Any]:
    return {"predictions": await router.decider.decide(router.parser.parse(body))}


async def _report(router: Router, body: bytes) -> dict[str, int]:
    return await router.outcomes.accept(body)


class RouterModel(Model):
    """Answers `/infer` (v2); `:predict` (v1) leads to `_decide`."""

    def __init__(self, name: str, router: Router) -> None:
        super().__init__(name)
        self._router = router
        self.ready = True  # KServe registers only ready models; `server.py` sets it while the router starts

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Decide on every instance."""
        requests = v2.parse_request(payload, self._router.parser)
        return v2.build_response(payload, self.name, await self._router.decider.decide(requests))


def install(app: FastAPI, model: str) -> None:
    """Add our routes and error answers to KServe's application; once a process, before KServe adds its own."""
    app.add_middleware(GatewayMiddleware)
    app.router.routes.insert(0, Route(f"/v1/models/{model}:predict", Post(_decide)))
    app.router.routes.insert(0, Route("/v1/outcomes", Post(_report)))
    app.add_api_route("/v1/drills", _drills, methods=["GET", "POST", "DELETE"])
    app.add_api_route("/health/{probe}", _health, methods=["GET"])
    # FastAPI's own document would describe KServe's routes, and those of ours without their bodies.
    app.openapi = lambda: _document(model, app.state.router, app.state.gateway.authentication)  # type: ignore[method-assign]
    correct(app)
    app.add_exception_handler(BadRequest, _refused(400))
    app.add_exception_handler(RequestConflict, _refused(409))
    app.add_exception_handler(SpoolUnavailable, _send_again)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _no_such_address)


async def _drills(request: Request) -> JSONResponse:
    drills = request.app.state.router.drills
    if drills is None:
        return JSONResponse({"error": "there are no drills here; the setting `drills: true` allows them"}, 404)
    if request.method == "POST":
        try:
            drills.start(Drill.model_validate(parse_json(await request.body())))
        except ValidationError as error:
            raise BadRequest(first_fault(error)) from None
    elif request.method == "DELETE":
        drills.stop()
    return JSONResponse({"drills": drills.in_force()})


async def _health(request: Request, probe: str) -> JSONResponse:
    router: Router = request.app.state.router
    answers = {
        "live": router.health.live,
        "ready": lambda: router.health.ready(lambda: router.spool.alive),
        "startup": router.health.startup,
    }
    if probe not in answers:
        return JSONResponse({"error": f"no such probe; there are {', '.join(answers)}"}, 404)
    good, body = answers[probe]()
    return JSONResponse(body) if good else JSONResponse(body, 503, {"retry-after": RETRY_AFTER})


@lru_cache(maxsize=1)
def _document(model: str, router: Router, authentication: Authentication) -> dict[str, Any]:
    parser = router.parser
    return document(model, parser.example, parser.body, router.outcome_parser.body, authentication.scheme)


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """The body of `/infer` has not KServe's types."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    return JSONResponse({"error": f"{place(fault['loc'])}: {fault['msg']}"}, 400)


async def _no_such_address(_: Request, error: Exception) -> JSONResponse:
    """The framework's 404 and 405, in our form."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _refused(status: int) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status)

    return answer


async def _send_again(_: Request, error: Exception) -> JSONResponse:
    # An outcome that is not on disk must not be called accepted: the one inner fault that is a 5xx.
    return JSONResponse({"error": f"not stored, send all of it again: {error}"}, 503, {"retry-after": "1"})
