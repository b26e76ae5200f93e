"""Writes the router's own HTTP interface as an OpenAPI 3.1 document.

    curl -s -H "Authorization: Bearer $TOKEN" localhost:8080/openapi.json      # with the names of the router's data set
    docs/schemas/openapi.json                                                  # for any data set

FastAPI generates it from the types that requests are checked with; no request passes this application.
`tests/serving/router/test_api.py` compares a running router with it. For people: docs/api.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Body, Depends, FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, with_config

from mtorl import __version__
from mtorl.log.records import V1Answer
from serving.router.flow.requests import DecisionBody, OutcomeBody
from serving.router.http.v2 import OUTPUTS, InferBody
from serving.router.ops.drills import Drill

Json = dict[str, Any]
Count = Annotated[int, Field(ge=0)]

_EXACT = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class _Exact(BaseModel):
    model_config = _EXACT


class Error(_Exact):
    """Reason why there is no answer."""

    error: str
    """For people: what is wrong, where, and what to do."""
    code: str
    """For programs: stays the same when the words change."""
    values: dict[str, Any]
    """What the words name: a place, a limit, a time."""


class ModelIdentity(_Exact):
    """The model that decided, as far as it says who it is."""

    name: str | None
    version: str | None
    digest: str | None


@with_config(_EXACT)
class Prediction(V1Answer):
    """A decision."""

    model: ModelIdentity | None
    """null: no model decided, or it did not say."""


class DecisionAnswer(_Exact):
    """Decisions, in the order of the instances."""

    predictions: list[Prediction]


class OutcomeCounts(_Exact):
    """Counts of a stored report of outcomes."""

    accepted: Count
    """All of the report. One that was reported before, by its `event_id`, counts once."""


class OutputTensor(_Exact):
    """One field of every decision."""

    name: Annotated[Literal[tuple(OUTPUTS)], Field(description="A field of `Prediction`.")]  # type: ignore[valid-type]
    shape: list[Count]
    datatype: Literal["BYTES", "BOOL", "FP64"]
    data: Annotated[
        list[str | bool | float | None], Field(description="What is not known is an empty text, or null as a number.")
    ]


class InferAnswer(_Exact):
    """Decisions, protocol v2."""

    model_name: str
    id: str
    outputs: list[OutputTensor]


class DrillInForce(Drill):
    """A fault that is injected now."""

    seconds_left: float


class DrillsInForce(_Exact):
    """The faults that are injected now."""

    drills: list[DrillInForce]


class Live(_Exact):
    """Whether the event loop turns."""

    seconds_since_housekeeping: float


class Ready(_Exact):
    """Whether requests may come. Before the router is asked, the answer may be an `Error`, too."""

    ready: bool
    waiting_for: str = ""
    """Why no decisions can be made yet."""
    problems: dict[str, list[Error]] = {}
    """Part -> what is wrong with it, with codes; "router": what it waits for."""
    draining: bool = False
    """The router is about to end."""
    parts: dict[str, str] = {}
    """Part -> "ok", or what is wrong with it. Decisions are made all the same, with the default action if need be."""
    experiments: dict[str, str] = {}
    """Experiment -> the version by which decisions are made, with its accounts."""


_REFUSALS = {
    400: "The request can't be understood: correct it.",
    401: "No valid credentials: send the header `Authorization`.",
    404: "The setting `drills` does not allow faults to be injected.",
    408: "The request did not arrive in time: 5 s for its body, 10 s in all.",
    409: "A `request_id` was used before for another request. Nothing of the body was decided.",
    413: "The body is larger than the setting `max_body_bytes`.",
    429: "More requests than can be answered in time: retry after `Retry-After`, or show no ad.",
    431: "The head of the request has more than 32 KiB, or more than 100 headers.",
    503: "Not now: no decisions can be made yet, and the message says what is waited for; or outcomes can't be stored.",
}
_ABOUT = (
    "Decisions of an A/B experiment on advertising channels, and what became of them. A fault inside the router is no "
    "5xx, but the default action with a `fallback_reason`. A connection too many is answered with 503 before it asks "
    "for anything. The routes of KServe's protocols v1 and v2 that describe model and server are there as well."
)
_EVENT: Json = {
    "event_id": "click-1",
    "decision_id": "019b796d-d67b-7371-8f1e-5a3c9b2d7e10",
    "kind": "click",
    "value": 1,
    "event_time": "2026-11-25T10:00:04Z",
}
_DRILL = {"stage": "model", "fault": "slow", "seconds": 0.2, "share": 0.5, "for_seconds": 60}


def document(model: str, instance: Mapping[str, Any], decisions: Any, outcomes: Any, token: bool) -> Json:
    """The document of a router: an example of an instance, its types of requests, and whether callers need a token."""
    made = FastAPI(
        title="MTORL router",
        version=__version__,
        description=_ABOUT,
        responses=_refusals(408, 431),
        generate_unique_id_function=lambda route: route.name,
    )
    made.include_router(_probes())
    made.include_router(_guarded(model, instance, decisions, outcomes, token))
    described = made.openapi()
    for item in described["paths"].values():
        for operation in item.values():
            operation["responses"].pop("422", None)  # FastAPI's status for a wrong body; here it is 400
    schemas = described["components"]["schemas"]
    del schemas["HTTPValidationError"], schemas["ValidationError"]
    for body in (DecisionBody, OutcomeBody):  # the types of a data set lack the descriptions
        for name, general in TypeAdapter(body).json_schema()["$defs"].items():
            schemas[name].setdefault("description", general["description"])
            for field, schema in general["properties"].items():
                if "description" in schema:
                    schemas[name]["properties"][field].setdefault("description", schema["description"])
    return described


def generic_document() -> Json:
    """The document for any data set, as docs/ has it."""
    context = {"hour": 20, "device": "mobile", "placement": "feed"}
    instance = {"user_id": "u000003", "campaign_id": "spring-sale", "context": context}
    return document("ads", instance, DecisionBody, OutcomeBody, token=True)


def _probes() -> APIRouter:
    routes = APIRouter()

    @routes.get("/health/live", response_model=Live, responses={503: {"model": Live}})
    def live() -> None:
        """Whether the event loop turns."""

    @routes.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
    def ready() -> None:
        """Whether requests may come, and which parts do not answer."""

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> None:
        """Prometheus metrics."""

    return routes


def _guarded(model: str, instance: Mapping[str, Any], decisions: Any, outcomes: Any, token: bool) -> APIRouter:
    """Routes that need a token, if the router has one."""
    needs: Json = {"dependencies": [Depends(HTTPBearer(scheme_name="caller"))], "responses": _refusals(401)}
    routes = APIRouter(**(needs if token else {}))
    sent = (413, 429, 503)  # of each request with a body
    texts = {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in instance.items()}
    tensors = [{"name": key, "datatype": "BYTES", "shape": [1], "data": [text]} for key, text in texts.items()]
    v1_body = Annotated[decisions, _example({"instances": [dict(instance)]})]
    v2_body = Annotated[InferBody, _example({"inputs": tensors})]
    report_body = Annotated[outcomes, _example({"outcomes": [_EVENT]})]

    @routes.post(f"/v1/models/{model}:predict", response_model=DecisionAnswer, responses=_refusals(400, 409, *sent))
    def decide(body: v1_body) -> None:
        """Decides on 1 to 64 opportunities, protocol v1.

        With a `request_id` it may be sent again: for ten minutes the answer is the same.
        """

    @routes.post(f"/v2/models/{model}/infer", response_model=InferAnswer, responses=_refusals(400, 409, *sent))
    def infer(body: v2_body) -> None:
        """Decides on opportunities, Open Inference Protocol v2: the fields of v1's instances as tensors.

        Tensors may come as bytes behind the message, too (`Inference-Header-Content-Length`).
        """

    @routes.post("/v1/outcomes", response_model=OutcomeCounts, responses=_refusals(400, *sent))
    def report(body: report_body) -> None:
        """Reports what became of decisions, 1 to 1000 at once; 200: all of it is on disk.

        It may be sent again: each `event_id` counts once.
        """

    @routes.get("/v1/drills", response_model=DrillsInForce, responses=_refusals(404))
    def drills() -> None:
        """Faults that are injected now."""

    @routes.post("/v1/drills", response_model=DrillsInForce, responses=_refusals(400, 404, *sent))
    def drill(body: Annotated[Drill, _example(_DRILL)]) -> None:
        """Inject a fault."""

    @routes.delete("/v1/drills", response_model=DrillsInForce, responses=_refusals(404, *sent))
    def end_drills() -> None:
        """End all injected faults."""

    return routes


def _refusals(*statuses: int) -> dict[int | str, Json]:
    return {status: {"model": Error, "description": _REFUSALS[status]} for status in statuses}


def _example(value: Any) -> Any:
    return Body(openapi_examples={"example": {"value": value}})
