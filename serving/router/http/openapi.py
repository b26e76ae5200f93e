"""Generates an OpenAPI 3.1 document of the router's HTTP interface. FastAPI is used only for this document."""

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
    """The body of an answer that refuses a request."""

    error: str
    """Message for people: what is wrong, where, and what to do."""
    code: str
    """Code for programs, which does not change when the message is reworded."""
    values: dict[str, Any]
    """The values in the message, such as a field, a limit or a time."""


class ModelIdentity(_Exact):
    """The model that made a decision. A field is null if the arm did not report it."""

    name: str | None
    version: str | None
    digest: str | None


@with_config(_EXACT)
class Prediction(V1Answer):
    """The router's decision for one instance of the request."""

    model: ModelIdentity | None
    """The model that decided. Null if no model decided, or if the arm did not report its model."""


class DecisionAnswer(_Exact):
    """The decisions for a request in protocol v1, in the order of the request's instances."""

    predictions: list[Prediction]


class OutcomeCounts(_Exact):
    """The answer to a report of outcomes that was stored."""

    accepted: Count
    """Number of outcomes in the report, including outcomes that were reported before. Each `event_id` of a decision
    counts only once in results."""


class OutputTensor(_Exact):
    """The values of one field of `Prediction`, one for each decision."""

    name: Annotated[Literal[tuple(OUTPUTS)], Field(description="A field of `Prediction`.")]  # type: ignore[valid-type]
    shape: list[Count]
    datatype: Literal["BYTES", "BOOL", "FP64"]
    data: Annotated[
        list[str | bool | float | None], Field(description="Unknown values are empty texts, or null for numbers.")
    ]


class InferAnswer(_Exact):
    """The decisions for a request in protocol v2."""

    model_name: str
    id: str
    outputs: list[OutputTensor]


class DrillInForce(Drill):
    """A fault that is being injected now."""

    seconds_left: float


class DrillsInForce(_Exact):
    """The faults that are being injected now."""

    drills: list[DrillInForce]


class Live(_Exact):
    """Result of the liveness probe."""

    seconds_since_housekeeping: float


class Ready(_Exact):
    """Result of the readiness probe. A request that is refused before the probe runs gets an `Error` instead."""

    ready: bool
    waiting_for: str = ""
    """Reason why the router can't make decisions yet; empty if it can."""
    problems: dict[str, list[Error]] = {}
    """The problems of each part of the router, with codes for programs. The part "router" has the reason why the router
    can't make decisions yet."""
    draining: bool = False
    """Whether the router is shutting down."""
    parts: dict[str, str] = {}
    """"ok", or the problems as text, for each part of the router. Even with problems, the router answers requests, if
    necessary with the default action."""
    experiments: dict[str, str] = {}
    """Version of each experiment that the router applies. The version covers the experiment file and its budgets."""


_REFUSALS = {
    400: "The request is not valid. Correct it.",
    401: "The request has no valid token. Send the header `Authorization`.",
    404: "The setting `drills` does not allow fault injection.",
    408: "The request did not arrive in time: 5 s for its body, 10 s in total.",
    409: "A `request_id` was used before for a different request. Nothing in the body was decided.",
    413: "The body is larger than the setting `max_body_bytes`.",
    429: "There are more requests than can be answered in time. Retry after `Retry-After`, or show no ad.",
    431: "The head of the request has more than 32 KiB, or more than 100 headers.",
    503: "No decisions can be made yet (the message has the reason), or the outcomes can't be stored. Retry later.",
}
_ABOUT = (
    "Decisions of an A/B experiment on advertising channels, and their outcomes. After an internal fault, the answer "
    "is the default action with a `fallback_reason`, not a 5xx. If there are too many connections, a new one gets 503 "
    "before it sends a request. The routes of KServe's protocols v1 and v2 that describe model and server exist, too."
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
    """Build the document. `instance` is an example; `token`: whether callers need a token."""
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
            operation["responses"].pop("422", None)  # FastAPI's status for an invalid body; the router's is 400
    schemas = described["components"]["schemas"]
    del schemas["HTTPValidationError"], schemas["ValidationError"]
    for body in (DecisionBody, OutcomeBody):  # the types for one data set lack descriptions
        for name, general in TypeAdapter(body).json_schema()["$defs"].items():
            schemas[name].setdefault("description", general["description"])
            for field, schema in general["properties"].items():
                if "description" in schema:
                    schemas[name]["properties"][field].setdefault("description", schema["description"])
    return described


def generic_document() -> Json:
    """Build the document for any data set, as in docs/schemas/."""
    context = {"hour": 20, "device": "mobile", "placement": "feed"}
    instance = {"user_id": "u000003", "campaign_id": "spring-sale", "context": context}
    return document("ads", instance, DecisionBody, OutcomeBody, token=True)


def _probes() -> APIRouter:
    routes = APIRouter()

    @routes.get("/health/live", response_model=Live, responses={503: {"model": Live}})
    def live() -> None:
        """Liveness probe: whether the event loop responds."""

    @routes.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
    def ready() -> None:
        """Readiness probe: whether requests can be answered, and which parts have problems."""

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> None:
        """Prometheus metrics."""

    return routes


def _guarded(model: str, instance: Mapping[str, Any], decisions: Any, outcomes: Any, token: bool) -> APIRouter:
    needs: Json = {"dependencies": [Depends(HTTPBearer(scheme_name="caller"))], "responses": _refusals(401)}
    routes = APIRouter(**(needs if token else {}))
    sent = (413, 429, 503)  # statuses for refusals of any request with a body
    texts = {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in instance.items()}
    tensors = [{"name": key, "datatype": "BYTES", "shape": [1], "data": [text]} for key, text in texts.items()]
    v1_body = Annotated[decisions, _example({"instances": [dict(instance)]})]
    v2_body = Annotated[InferBody, _example({"inputs": tensors})]
    report_body = Annotated[outcomes, _example({"outcomes": [_EVENT]})]

    @routes.post(f"/v1/models/{model}:predict", response_model=DecisionAnswer, responses=_refusals(400, 409, *sent))
    def decide(body: v1_body) -> None:
        """Decide on 1 to 64 opportunities, protocol v1.

        A retry with the same `request_id` gets the same answer for ten minutes.
        """

    @routes.post(f"/v2/models/{model}/infer", response_model=InferAnswer, responses=_refusals(400, 409, *sent))
    def infer(body: v2_body) -> None:
        """Decide on opportunities, Open Inference Protocol v2: the fields of v1's instances as tensors.

        Binary tensors after the JSON message are accepted as well (`Inference-Header-Content-Length`).
        """

    @routes.post("/v1/outcomes", response_model=OutcomeCounts, responses=_refusals(400, *sent))
    def report(body: report_body) -> None:
        """Report 1 to 1000 outcomes of decisions. A 200 means that all of them are on disk.

        A report may be sent again: each `event_id` counts once.
        """

    @routes.get("/v1/drills", response_model=DrillsInForce, responses=_refusals(404))
    def drills() -> None:
        """List the active injected faults."""

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
