"""Writes the router's HTTP interface as an OpenAPI 3.1 document.

    curl -s -H "Authorization: Bearer $TOKEN" localhost:8080/openapi.json      # with the names of the router's data set
    docs/schemas/openapi.json                                                  # for any data set

It is made of the types that requests are checked with. `tests/serving/router/test_api.py` compares a running router
with it. For people: docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from pydantic import TypeAdapter

from mtorl import __version__
from serving.router.flow.drills import Drill
from serving.router.flow.requests import DecisionBody, OutcomeBody
from serving.router.http import bodies
from serving.router.http.auth import BEARER, Scheme

Json = dict[str, Any]

_JSON = "application/json"
_REFUSALS = {
    400: "The request can't be understood: correct it.",
    401: "No valid credentials.",
    404: "The setting `drills` does not allow faults to be injected.",
    408: "The request did not arrive in time: 5 s for its body, 10 s in all.",
    409: "A `request_id` was used before for another request. Nothing of the body was decided.",
    413: "The body is larger than the setting `max_body_bytes`.",
    429: "More requests than can be answered in time: come again after `Retry-After`, or show no ad.",
    431: "The head of the request has more than 32 KiB, or more than 100 headers.",
    503: "Not now: no decisions can be made yet, and the message says what is waited for; or outcomes can't be stored.",
}
_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
_ANY = (408, 431)  # of the connection, for any request
_PROBE = (*_ANY, 503)
_SENT = (401, 408, 413, 429, 431, 503)  # of each request with a body


@dataclass(frozen=True)
class _Operation:
    method: str
    path: str
    name: str
    summary: str
    answer: Any = None  # its type; None: text
    asked: Any = None  # type of the body
    refusals: tuple[int, ...] = _ANY
    text: str = ""


def document(
    model: str,
    instance: Mapping[str, Any],
    decisions: TypeAdapter[DecisionBody],
    outcomes: TypeAdapter[OutcomeBody],
    scheme: Scheme,
) -> Json:
    """The document of a router, with an example of an instance, and its types of requests."""
    asked: dict[str, TypeAdapter[Any]] = {"decisions": decisions, "outcomes": outcomes}
    operations = _operations(model)
    for operation in operations:
        for type_ in (operation.answer, operation.asked, bodies.Error):
            if type_ is not None and not isinstance(type_, str):
                asked[type_.__name__] = TypeAdapter(type_)
    found, schemas = TypeAdapter.json_schemas(
        [(name, "validation", adapter) for name, adapter in asked.items()],
        ref_template="#/components/schemas/{model}",
    )
    references: dict[str, Json] = {name: schema for (name, _), schema in found.items()}
    definitions: dict[str, Json] = schemas["$defs"]
    _describe(definitions)
    examples = _examples(instance)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, references, examples, scheme)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MTORL router",
            "version": __version__,
            "description": "Decisions of an A/B experiment on advertising channels, and what became of them. "
            "A fault inside the router is no 5xx, but the default action with a `fallback_reason`. "
            "A connection too many is answered with 503 before it asks for anything. "
            "The same decisions over gRPC: `inference.GRPCInferenceService/ModelInfer`, with the tensors of v2.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": {str(status): _refusal(status, references["Error"]) for status in _REFUSALS},
            **({} if scheme is None else {"securitySchemes": {"caller": dict(scheme)}}),
        },
    }


def generic_document() -> Json:
    """The document for any data set, as docs/ has it."""
    instance = {
        "user_id": "u000003",
        "campaign_id": "spring-sale",
        "context": {"hour": 20, "device": "mobile", "placement": "feed"},
    }
    adapters = TypeAdapter(DecisionBody), TypeAdapter(OutcomeBody)
    return document("ads", instance, *adapters, BEARER)


def _operations(model: str) -> list[_Operation]:
    v1, v2 = f"/v1/models/{model}", f"/v2/models/{model}"
    get, post = partial(_Operation, "get"), partial(_Operation, "post")
    probe = partial(get, refusals=_PROBE)
    drills: Json = {"path": "/v1/drills", "answer": bodies.DrillsInForce}
    ready = "Whether decisions can be made"
    return [
        post(
            f"{v1}:predict",
            "decide",
            "Decide on opportunities, protocol v1",
            bodies.DecisionAnswer,
            "decisions",
            (400, *_SENT, 409),
            "1 to 64 at once. With a `request_id` it may be sent again: for ten minutes the answer is the same.",
        ),
        post(
            f"{v2}/infer",
            "infer",
            "Decide on opportunities, Open Inference Protocol v2",
            bodies.InferAnswer,
            bodies.InferBody,
            (400, *_SENT, 409),
            "The fields of v1's instances as tensors. Tensors may come as bytes behind the message, too "
            "(`Inference-Header-Content-Length`).",
        ),
        post(
            "/v1/outcomes",
            "report",
            "Report what became of decisions",
            bodies.OutcomeCounts,
            "outcomes",
            (400, *_SENT),
            "1 to 1000 at once. It may be sent again: each `event_id` counts once. 200: all of it is on disk.",
        ),
        probe("/health/live", "live", "Whether the event loop turns", bodies.Live),
        probe("/health/ready", "ready", "Whether requests may come, and which parts do not answer", bodies.Ready),
        probe("/health/startup", "startup", ready, bodies.Startup),
        get("/metrics", "metrics", "Prometheus metrics"),
        get("/", "root", "Whether the server answers", bodies.Alive),
        get("/v1/models", "models", "The model, protocol v1", bodies.Models),
        probe(v1, "modelReady", f"{ready}, protocol v1", bodies.ModelReady),
        get("/v2", "server", "The server, protocol v2", bodies.ServerMetadata, refusals=(401, *_ANY)),
        get("/v2/health/live", "serverLive", "Whether the server answers", bodies.ServerLive),
        probe("/v2/health/ready", "serverReady", ready, bodies.ServerReady),
        get("/v2/models", "modelsV2", "The model, protocol v2", bodies.Models),
        get(v2, "modelMetadata", "Tensors of the model, protocol v2", bodies.ModelMetadata),
        probe(f"{v2}/ready", "modelReadyV2", ready, bodies.ModelReady),
        get(name="drills", summary="Faults that are injected now", refusals=(401, 404, *_ANY), **drills),
        post(name="drill", summary="Inject a fault", asked=Drill, refusals=(400, 404, *_SENT), **drills),
        _Operation("delete", name="endDrills", summary="End all injected faults", refusals=(404, *_SENT), **drills),
    ]


def _described(
    operation: _Operation, references: Mapping[str, Json], examples: Mapping[str, Any], scheme: Scheme
) -> Json:
    responses: Json = {"200": _ok(operation.answer, references)}
    for status in sorted(operation.refusals):
        if scheme is None and status == 401:
            continue
        own = status == 503 and operation.path.startswith("/health/")
        responses[str(status)] = (
            {
                "description": "No: the body says why. Before the router is asked, the answer may be an `Error`, too.",
                "content": _content({"anyOf": [references[operation.answer.__name__], references["Error"]]}),
            }
            if own
            else {"$ref": f"#/components/responses/{status}"}
        )
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        **({"description": operation.text} if operation.text else {}),
        "responses": responses,
    }
    if operation.asked is not None:
        name = operation.asked if isinstance(operation.asked, str) else operation.asked.__name__
        content = {"schema": references[name], "examples": {"example": {"value": examples[name]}}}
        described["requestBody"] = {"required": True, "content": {_JSON: content}}
    if scheme is not None and 401 in operation.refusals:
        described["security"] = [{"caller": []}]
    return described


def _ok(answer: Any, references: Mapping[str, Json]) -> Json:
    if answer is None:
        return {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"description": answer.__doc__.splitlines()[0], "content": _content(references[answer.__name__])}


def _refusal(status: int, error: Json) -> Json:
    refusal: Json = {"description": _REFUSALS[status], "content": _content(error)}
    if status in _HEADERS:
        schema = {"type": "string"} if status == 401 else {"type": "integer", "description": "Seconds."}
        refusal["headers"] = {_HEADERS[status]: {"required": status == 429, "schema": schema}}
    return refusal


def _content(schema: Json) -> Json:
    return {_JSON: {"schema": schema}}


def _describe(definitions: dict[str, Json]) -> None:
    for body in (DecisionBody, OutcomeBody):
        for name, general in TypeAdapter(body).json_schema()["$defs"].items():
            definitions[name].setdefault("description", general["description"])
            for field, schema in general["properties"].items():
                if "description" in schema:
                    definitions[name]["properties"][field].setdefault("description", schema["description"])


def _examples(instance: Mapping[str, Any]) -> dict[str, Any]:
    texts: Iterable[tuple[str, Any]] = instance.items()
    tensors = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [1],
            "data": [value if isinstance(value, str) else orjson.dumps(value).decode()],
        }
        for name, value in texts
    ]
    outcome = {
        "event_id": "click-1",
        "decision_id": "019b796d-d67b-7371-8f1e-5a3c9b2d7e10",
        "kind": "click",
        "value": 1,
        "event_time": "2026-11-25T10:00:04Z",
    }
    return {
        "decisions": {"instances": [dict(instance)]},
        "InferBody": {"inputs": tensors},
        "outcomes": {"outcomes": [outcome]},
        "Drill": {"stage": "model", "fault": "slow", "seconds": 0.2, "share": 0.5, "for_seconds": 60},
    }
