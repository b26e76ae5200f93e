"""Writes the router's HTTP interface as an OpenAPI 3.1 document.

    curl -s -H "Authorization: Bearer $TOKEN" localhost:8080/openapi.json      # with the names of the router's data set
    docs/schemas/openapi.json                                                  # for any data set

FastAPI makes it of the types that requests are checked with. `tests/serving/router/test_api.py` compares a running
router with it. For people: docs/api.md.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import Body
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from mtorl import __version__
from serving.kserve_sdk import v2_datamodels as kserve
from serving.router.flow.requests import DecisionBody, OutcomeBody
from serving.router.http import bodies
from serving.router.http.v2 import InferBody
from serving.router.ops.drills import Drill

Json = dict[str, Any]

_REFUSALS = {
    400: "The request can't be understood: correct it.",
    401: "No valid credentials.",
    404: "The setting `drills` does not allow faults to be injected.",
    408: "The request did not arrive in time: 5 s for its body, 10 s in all.",
    409: "A `request_id` was used before for another request. Nothing of the body was decided.",
    413: "The body is larger than the setting `max_body_bytes`.",
    429: "More requests than can be answered in time: retry after `Retry-After`, or show no ad.",
    431: "The head of the request has more than 32 KiB, or more than 100 headers.",
    503: "Not now: no decisions can be made yet, and the message says what is waited for; or outcomes can't be stored.",
}
_SECONDS = {"type": "integer", "description": "Seconds."}
_HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"required": False, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "schema": _SECONDS}},
    503: {"Retry-After": {"required": False, "schema": _SECONDS}},
}
_ANY = (408, 431)  # of the connection, for any request
_PROBE = (*_ANY, 503)
_SENT = (401, 408, 413, 429, 431, 503)  # of each request with a body
_ABOUT = (
    "Decisions of an A/B experiment on advertising channels, and what became of them. A fault inside the router is no "
    "5xx, but the default action with a `fallback_reason`. A connection too many is answered with 503 before it asks "
    "for anything."
)


def document(model: str, instance: Mapping[str, Any], decisions: Any, outcomes: Any, token: bool) -> Json:
    """The document of a router: an example of an instance, its types of requests, and whether callers need a token."""
    routes = _routes(model, _examples(instance, decisions, outcomes), decisions, outcomes, token)
    made = get_openapi(
        title="MTORL router", version=__version__, openapi_version="3.1.0", description=_ABOUT, routes=routes
    )
    for item in made["paths"].values():
        for operation in item.values():
            operation["responses"].pop("422", None)  # FastAPI's status for a wrong body; here it is 400
    schemas = made["components"]["schemas"]
    del schemas["HTTPValidationError"], schemas["ValidationError"]
    for body in (DecisionBody, OutcomeBody):  # the types of a data set lack the descriptions
        for name, general in TypeAdapter(body).json_schema()["$defs"].items():
            schemas[name].setdefault("description", general["description"])
            for field, schema in general["properties"].items():
                if "description" in schema:
                    schemas[name]["properties"][field].setdefault("description", schema["description"])
    if token:
        made["components"]["securitySchemes"] = {"caller": {"type": "http", "scheme": "bearer"}}
    return made


def generic_document() -> Json:
    """The document for any data set, as docs/ has it."""
    context = {"hour": 20, "device": "mobile", "placement": "feed"}
    instance = {"user_id": "u000003", "campaign_id": "spring-sale", "context": context}
    return document("ads", instance, DecisionBody, OutcomeBody, token=True)


def _routes(model: str, examples: Mapping[Any, Any], decisions: Any, outcomes: Any, token: bool) -> list[APIRoute]:
    def route(
        method: str, path: str, name: str, summary: str, answer: Any, refusals: tuple[int, ...] = _ANY, **more: Any
    ) -> APIRoute:
        def endpoint(body: Any) -> None: ...

        def without_body() -> None: ...

        asked = more.pop("body", None)
        if asked is not None:
            endpoint.__annotations__["body"] = Annotated[asked, _body(examples[asked])]
        responses: dict[int | str, Json] = {}
        if answer is None:
            responses[200] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
        for status in sorted(set(refusals) - (set() if token else {401})):
            responses[status] = {"model": bodies.Error, "description": _REFUSALS[status]}
            if status == 503 and path.startswith("/health/"):
                said = "No: the body says why. Before the router is asked, the answer may be an `Error`, too."
                responses[status] = {"model": answer | bodies.Error, "description": said}
            elif status in _HEADERS:
                responses[status]["headers"] = _HEADERS[status]
        return APIRoute(
            path,
            without_body if asked is None else endpoint,
            methods=[method],
            operation_id=name,
            summary=summary,
            response_model=answer,
            response_class=Response if answer is None else JSONResponse,
            response_description=summary,
            responses=responses,
            openapi_extra={"security": [{"caller": []}]} if 401 in responses else None,
            **more,
        )

    v1, v2, ready = f"/v1/models/{model}", f"/v2/models/{model}", "Whether decisions can be made"
    get, post = partial(route, "GET"), partial(route, "POST")
    probe, drills = partial(get, refusals=_PROBE), partial(route, path="/v1/drills", answer=bodies.DrillsInForce)
    return [
        post(
            f"{v1}:predict",
            "decide",
            "Decide on opportunities, protocol v1",
            bodies.DecisionAnswer,
            (400, *_SENT, 409),
            body=decisions,
            description="1 to 64 at once. With a `request_id` it may be sent again: for ten minutes the answer is the "
            "same.",
        ),
        post(
            f"{v2}/infer",
            "infer",
            "Decide on opportunities, Open Inference Protocol v2",
            bodies.InferAnswer,
            (400, *_SENT, 409),
            body=InferBody,
            description="The fields of v1's instances as tensors. Tensors may come as bytes behind the message, too "
            "(`Inference-Header-Content-Length`).",
        ),
        post(
            "/v1/outcomes",
            "report",
            "Report what became of decisions",
            bodies.OutcomeCounts,
            (400, *_SENT),
            body=outcomes,
            description="1 to 1000 at once. It may be sent again: each `event_id` counts once. 200: all of it is on "
            "disk.",
        ),
        probe("/health/live", "live", "Whether the event loop turns", bodies.Live),
        probe("/health/ready", "ready", "Whether requests may come, and which parts do not answer", bodies.Ready),
        get("/metrics", "metrics", "Prometheus metrics", None),
        get("/", "root", "Whether the server answers", bodies.Alive),
        get("/v1/models", "models", "The model, protocol v1", kserve.ListModelsResponse),
        probe(v1, "modelReady", f"{ready}, protocol v1", kserve.ModelReadyResponse),
        get("/v2", "server", "The server, protocol v2", kserve.ServerMetadataResponse, (401, *_ANY)),
        get("/v2/health/live", "serverLive", "Whether the server answers", kserve.ServerLiveResponse),
        probe("/v2/health/ready", "serverReady", ready, kserve.ServerReadyResponse),
        get("/v2/models", "modelsV2", "The model, protocol v2", kserve.ListModelsResponse),
        get(v2, "modelMetadata", "Tensors of the model, protocol v2", kserve.ModelMetadataResponse),
        probe(f"{v2}/ready", "modelReadyV2", ready, kserve.ModelReadyResponse),
        drills("GET", name="drills", summary="Faults that are injected now", refusals=(401, 404, *_ANY)),
        drills("POST", name="drill", summary="Inject a fault", refusals=(400, 404, *_SENT), body=Drill),
        drills("DELETE", name="endDrills", summary="End all injected faults", refusals=(404, *_SENT)),
    ]


def _body(example: Any) -> Any:
    return Body(openapi_examples={"example": {"value": example}})


def _examples(instance: Mapping[str, Any], decisions: Any, outcomes: Any) -> dict[Any, Any]:
    """An example of each body, by its type."""
    texts = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in instance.items()
    }
    outcome = {
        "event_id": "click-1",
        "decision_id": "019b796d-d67b-7371-8f1e-5a3c9b2d7e10",
        "kind": "click",
        "value": 1,
        "event_time": "2026-11-25T10:00:04Z",
    }
    return {
        decisions: {"instances": [dict(instance)]},
        InferBody: {
            "inputs": [{"name": n, "datatype": "BYTES", "shape": [1], "data": [text]} for n, text in texts.items()]
        },
        outcomes: {"outcomes": [outcome]},
        Drill: {"stage": "model", "fault": "slow", "seconds": 0.2, "share": 0.5, "for_seconds": 60},
    }
