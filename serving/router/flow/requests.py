"""Parses and validates requests. The types also generate docs/schemas/decision-request.json and outcome-report.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    cast,
)

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic reads `TypedDict` of `typing` only from Python 3.12 on

from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.decision_ids import FORM, is_decision_id
from mtorl.log.records import CANCEL, VERSION, Baseline, OutcomeRecord
from mtorl.log.times import microseconds, moment
from mtorl.runtime.message import Message
from mtorl.runtime.validation import first_fault, short
from serving.kserve_sdk import InvalidInput
from serving.messages import INVALID

CLOCK_SKEW = timedelta(minutes=1)  # a timestamp may be this far in the future

_MOST_INSTANCES = 64
_MOST_OUTCOMES = 1000
_NEVER_NEGATIVE = ("cost", "click", "conversion", CANCEL)

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
_BODY = ConfigDict(strict=True, extra="ignore")  # clients of KServe's v1 protocol send further fields

Name = Annotated[str, Field(min_length=1, max_length=256)]
Category = Annotated[str, Field(max_length=256)]  # "" means unknown, as in a log
Moment = Annotated[str, Field(min_length=1, max_length=256, json_schema_extra={"format": "date-time"})]
Body = TypeVar("Body")


class BadRequest(InvalidInput):
    """Raised if a request is not valid (HTTP 400)."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault if isinstance(fault, Message) else INVALID(fault=fault))


@with_config(_STRICT)
class GivenBaseline(TypedDict):
    """The decision that the caller's own logic would make for an instance."""

    channel: Name
    """The channel that the caller's logic would choose. It must be one of the candidates."""
    expose: bool
    """Whether the caller's logic would show the ad."""
    propensity: NotRequired[Annotated[float, Field(gt=0, le=1)] | None]
    """Probability with which the caller's logic makes this decision; 1 if it is deterministic. By default, it is
    unknown."""


@with_config(_STRICT)
class Instance(TypedDict):
    """One opportunity to show an ad."""

    user_id: Name
    campaign_id: Name
    context: dict[str, float | Category | None]
    """A value for each context column of the data set, such as the hour or the device."""
    request_id: NotRequired[Name | None]
    """The caller's id of the request. A retry with the same id gets the same answer. A different request with the same
    id gets the status 409."""
    timestamp: NotRequired[Moment | None]
    """Time of the opportunity, in ISO 8601 with a time zone. By default, it is the time when the request arrives."""
    candidates: NotRequired[Annotated[list[Name], Field(min_length=1)] | None]
    """The channels to choose from; by default all channels of the data set."""
    costs: NotRequired[dict[Name, Annotated[float, Field(gt=0)]] | None]
    """Highest possible cost of an exposure at this moment, by channel, in currency units. The router's setting
    `cost_cap` is the default, and the upper limit."""
    baseline: NotRequired[GivenBaseline | None]
    """The decision of the caller's own logic. It is the answer for users of an arm with `policy: baseline`, and the
    default action after a fault."""


@with_config(_BODY)
class DecisionBody(TypedDict):
    """The body of a request for decisions in protocol v1."""

    instances: Annotated[list[Instance], Field(min_length=1, max_length=_MOST_INSTANCES)]


def _decision_id(text: str) -> str:
    if not is_decision_id(text):
        raise PydanticCustomError("decision_id", "expected an answer's decision_id, got {text}", {"text": short(text)})
    return text


DecisionId = Annotated[str, AfterValidator(_decision_id), WithJsonSchema({"type": "string", "pattern": f"^{FORM}$"})]


@with_config(_STRICT)
class Outcome(TypedDict):
    """An outcome of an earlier decision, such as a click or a cost."""

    event_id: Name
    """The caller's id of the event. Several events of one decision with the same id count once."""
    decision_id: DecisionId
    kind: Name
    """cost, click, conversion, revenue, another numeric outcome of the data set, or cancel (the ad was not shown)."""
    value: Annotated[float, Field(ge=-1e9, le=1e9)]
    """Value of the outcome. Only revenue and other outcomes of the data set may be negative."""
    event_time: Moment
    """Time of the event, in ISO 8601 with a time zone."""


@with_config(_BODY)
class OutcomeBody(TypedDict):
    """The body of a report of outcomes."""

    outcomes: Annotated[list[Outcome], Field(min_length=1, max_length=_MOST_OUTCOMES)]


@dataclass(frozen=True)
class DecisionRequest:
    """One opportunity to show an ad."""

    user_id: str
    campaign_id: str
    context: dict[str, Any]
    at: int  # microseconds since 1970
    candidates: Sequence[str] = ()  # in the order of the data set
    costs: Mapping[str, float] = field(default_factory=dict)  # highest cost by channel
    baseline: Baseline | None = None
    request_id: str | None = None
    content: str | None = None  # hash of what is requested; None without a request id


class DecisionParser:
    """Parses requests for decisions. `body` is their type, with the data set's own names."""

    def __init__(self, spec: DatasetSpec, cost_cap: Mapping[str, float]) -> None:
        self._channels = spec.channels
        self._columns = [column.name for column in spec.context]
        self.example: Instance = {
            "user_id": "u1",
            "campaign_id": "c1",
            "context": {column.name: 1.0 if column.kind == "numeric" else "a" for column in spec.context},
        }
        context = _typed_dict("Context", {column.name: _type_of(column) for column in spec.context})
        channel: Any = Literal[self._channels]
        baseline = _typed_dict("GivenBaseline", {**GivenBaseline.__annotations__, "channel": channel})
        capped = {c: NotRequired[Annotated[float, Field(gt=0, le=cost_cap[c])]] for c in self._channels}
        costs = _typed_dict("Costs", capped)
        special = {
            "context": context,
            "candidates": NotRequired[Annotated[list[channel], Field(min_length=1)] | None],
            "costs": NotRequired[costs | None],
            "baseline": NotRequired[baseline | None],
        }
        instance: Any = _typed_dict("Instance", {**Instance.__annotations__, **special})
        instances = Annotated[list[instance], Field(min_length=1, max_length=_MOST_INSTANCES)]
        self.body = _typed_dict("DecisionBody", {"instances": instances}, _BODY)
        self._adapter: TypeAdapter[DecisionBody] = TypeAdapter(self.body)

    def parse(self, body: Any) -> list[DecisionRequest]:
        """Parse a v1 request, as bytes or parsed JSON; raises BadRequest."""
        checked = _checked(self._adapter, parse_json(body))
        now = datetime.now(UTC)
        return [self._request(i, instance, now) for i, instance in enumerate(checked["instances"])]

    def _request(self, i: int, instance: Instance, now: datetime) -> DecisionRequest:
        timestamp, given = instance.get("timestamp"), instance["context"]
        context = {name: None if (value := given.get(name)) == "" else value for name in self._columns}
        when = now if timestamp is None else _utc(where := f"instances[{i}].timestamp", timestamp)
        if when > now + CLOCK_SKEW:
            raise BadRequest(f"{where}: {timestamp} is in the future; here it is {now.isoformat(timespec='seconds')}")
        at = microseconds(when)
        request_id = instance.get("request_id")
        baseline: Baseline | None = None
        if (stated := instance.get("baseline")) is not None:
            baseline = {**stated, "propensity": stated.get("propensity")}
        candidates, costs = self._channels, instance.get("costs") or {}
        if (offered := instance.get("candidates")) is not None:
            candidates = tuple(name for name in self._channels if name in offered)
        if baseline is not None and baseline["channel"] not in candidates:
            raise BadRequest(
                f"instances[{i}].baseline.channel: {baseline['channel']!r} is not one of the candidates, which are "
                f"{', '.join(candidates)}"
            )
        content = None
        if request_id is not None:
            fewer = candidates if len(candidates) < len(self._channels) else ()
            said = {"candidates": fewer, "costs": costs, "baseline": baseline}
            content = _content(context, None if timestamp is None else at, said)
        who = instance["user_id"], instance["campaign_id"]
        return DecisionRequest(*who, context, at, candidates, costs, baseline, request_id, content)


class OutcomeParser:
    """Parses outcome reports. `body` is their type, with the data set's own outcome kinds."""

    def __init__(self, spec: DatasetSpec) -> None:
        kind = cast(Any, Literal)[(*spec.outcome_kinds, CANCEL)]
        outcome: Any = _typed_dict("Outcome", {**Outcome.__annotations__, "kind": kind})
        outcomes = Annotated[list[outcome], Field(min_length=1, max_length=_MOST_OUTCOMES)]
        self.body = _typed_dict("OutcomeBody", {"outcomes": outcomes}, _BODY)
        self._adapter: TypeAdapter[OutcomeBody] = TypeAdapter(self.body)

    def parse(self, body: bytes) -> list[OutcomeRecord]:
        """Parse a report into outcome records; raises BadRequest."""
        outcomes = _checked(self._adapter, parse_json(body))["outcomes"]
        received = datetime.now(UTC).isoformat(timespec="microseconds")
        return [self._record(f"outcomes[{i}]", outcome, received) for i, outcome in enumerate(outcomes)]

    def _record(self, where: str, outcome: Outcome, received: str) -> OutcomeRecord:
        kind, value = outcome["kind"], outcome["value"]
        if value < 0 and kind in _NEVER_NEGATIVE:
            raise BadRequest(f"{where}.value: expected a number of at least 0 for {kind}, got {value:g}")
        return {
            "schema_version": VERSION,
            "event_id": outcome["event_id"],
            "decision_id": outcome["decision_id"],
            "kind": kind,
            "value": value,
            "event_time": _utc(f"{where}.event_time", outcome["event_time"]).isoformat(timespec="microseconds"),
            "received_time": received,
        }


def parse_json(body: Any) -> Any:
    """Parse a body, unless it is parsed already; raises BadRequest."""
    if not isinstance(body, bytes | bytearray):
        return body
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _content(context: Mapping[str, Any], at: int | None, said: Mapping[str, Any]) -> str:
    """Return a hash of a request's content, to recognize a different request with the same id."""
    said = {name: value for name, value in said.items() if value}
    text = orjson.dumps([context, at, said], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _typed_dict(name: str, fields: Mapping[str, Any], config: ConfigDict = _STRICT) -> Any:
    """Build a typed dictionary whose fields depend on the data set."""
    made = cast(Any, TypedDict)(name, fields)
    made.__pydantic_config__ = config
    return made


def _type_of(column: Column) -> Any:
    if column.missing == "error":
        return float if column.kind == "numeric" else Name
    return NotRequired[float | None] if column.kind == "numeric" else NotRequired[Category | None]


def _checked(adapter: TypeAdapter[Body], body: Any) -> Body:
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        raise BadRequest(first_fault(error)) from None


def _utc(where: str, text: str) -> datetime:
    try:
        return moment(text)
    except ValueError as error:
        raise BadRequest(f"{where}: {error}") from None
