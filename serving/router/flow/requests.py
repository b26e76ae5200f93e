"""What a request may hold. Everything else is a 400 that names the place and says what was expected there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.records import OUTCOME_KINDS, SCHEMA_VERSION, OutcomeRecord
from mtorl.log.times import microseconds
from serving.kserve_sdk import InvalidInput

MAX_INSTANCES = 64
MAX_OUTCOMES = 1000
MAX_TEXT = 256

CLOCK_SKEW = timedelta(minutes=1)  # how far a caller's clock may be ahead of ours

_INSTANCE_KEYS = ("user_id", "campaign_id", "context", "request_id", "timestamp")
_OUTCOME_KEYS = ("event_id", "decision_id", "kind", "value", "event_time")


class BadRequest(InvalidInput):
    """The request can't be understood; HTTP 400."""


@dataclass(frozen=True)
class DecisionRequest:
    """One opportunity to show an ad."""

    user_id: str
    campaign_id: str
    context: dict[str, Any]
    at: int  # when the opportunity arose, microseconds since 1970
    request_id: str | None = None


def parse_json(body: Any) -> Any:
    """A body as JSON, whatever content type it was sent with."""
    if not isinstance(body, bytes | bytearray):
        return body
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def parse_decisions(body: Any, spec: DatasetSpec) -> list[DecisionRequest]:
    """The instances of a v1 request."""
    items = _items(parse_json(body), "instances", MAX_INSTANCES)
    now = datetime.now(UTC)
    return [_decision(f"instances[{i}]", item, spec, now) for i, item in enumerate(items)]


def parse_outcomes(body: Any) -> list[OutcomeRecord]:
    """The outcomes of a request, as records of the decision log."""
    items = _items(parse_json(body), "outcomes", MAX_OUTCOMES)
    return [_outcome(f"outcomes[{i}]", item) for i, item in enumerate(items)]


def _decision(where: str, item: Any, spec: DatasetSpec, now: datetime) -> DecisionRequest:
    _keys(where, item, _INSTANCE_KEYS, required=3)
    request_id, timestamp = item.get("request_id"), item.get("timestamp")
    return DecisionRequest(
        user_id=_text(f"{where}.user_id", item["user_id"]),
        campaign_id=_text(f"{where}.campaign_id", item["campaign_id"]),
        context=_context(f"{where}.context", item["context"], spec.context),
        at=microseconds(now if timestamp is None else _past(f"{where}.timestamp", timestamp, now)),
        request_id=None if request_id is None else _text(f"{where}.request_id", request_id),
    )


def _context(where: str, context: Any, columns: Sequence[Column]) -> dict[str, Any]:
    if not isinstance(context, dict):
        raise BadRequest(f"{where}: expected an object, got {_short(context)}")
    names = [column.name for column in columns]
    unknown = sorted(set(context) - set(names))
    if unknown:
        raise BadRequest(f"{where}: unknown columns: {', '.join(unknown)}; known: {', '.join(names)}")
    missing = [c.name for c in columns if c.missing == "error" and context.get(c.name) is None]
    if missing:
        raise BadRequest(f"{where}: missing columns: {', '.join(missing)}")
    return {c.name: _value(f"{where}.{c.name}", context.get(c.name), c) for c in columns}


def _value(where: str, value: Any, column: Column) -> Any:
    if value is None:
        return None
    return _number(where, value) if column.kind == "numeric" else _text(where, value, empty=True)


def _outcome(where: str, item: Any) -> OutcomeRecord:
    _keys(where, item, _OUTCOME_KEYS, required=5)
    if item["kind"] not in OUTCOME_KINDS:
        raise BadRequest(f"{where}.kind: {_short(item['kind'])} is not one of {', '.join(OUTCOME_KINDS)}")
    value = _number(f"{where}.value", item["value"])
    if not 0 <= value <= 1e9:
        raise BadRequest(f"{where}.value: expected a number between 0 and 1e9, got {value:g}")
    return {
        "schema_version": SCHEMA_VERSION,
        "event_id": _text(f"{where}.event_id", item["event_id"]),
        "decision_id": _text(f"{where}.decision_id", item["decision_id"]),
        "kind": item["kind"],
        "value": value,
        "event_time": _time(f"{where}.event_time", item["event_time"]).isoformat(timespec="microseconds"),
    }


def _items(body: Any, name: str, most: int) -> list[Any]:
    if not isinstance(body, dict) or name not in body:
        raise BadRequest(f'expected an object {{"{name}": [...]}}, got {_short(body)}')
    items = body[name]
    if not isinstance(items, list) or not items:
        raise BadRequest(f"{name}: expected a list with at least one item, got {_short(items)}")
    if len(items) > most:
        raise BadRequest(f"{name}: {len(items)} items, at most {most} are taken in one request")
    return items


def _keys(where: str, item: Any, known: Sequence[str], required: int) -> None:
    """The first `required` of the known keys must be there, no others may."""
    if not isinstance(item, dict):
        raise BadRequest(f"{where}: expected an object, got {_short(item)}")
    missing = [key for key in known[:required] if key not in item]
    if missing:
        raise BadRequest(f"{where}: missing {', '.join(missing)}")
    unknown = sorted(set(item) - set(known))
    if unknown:
        raise BadRequest(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")


def _text(where: str, value: Any, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{where}: expected text, got {_short(value)}")
    if len(value) > MAX_TEXT or not (value or empty):
        raise BadRequest(f"{where}: expected text of 1 to {MAX_TEXT} characters, got {len(value)}")
    return value


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{where}: expected a number, got {_short(value)}")
    if not math.isfinite(value):
        raise BadRequest(f"{where}: expected a finite number, got {value}")
    return float(value)


def _past(where: str, value: Any, now: datetime) -> datetime:
    found = _time(where, value)
    if found > now + CLOCK_SKEW:
        raise BadRequest(f"{where}: {value} is in the future; it is {now.isoformat(timespec='seconds')} here")
    return found


def _time(where: str, value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(_text(where, value))
    except ValueError as error:
        if isinstance(error, BadRequest):
            raise
        raise BadRequest(f"{where}: expected an ISO 8601 time, got {_short(value)}") from None
    if found.tzinfo is None:
        raise BadRequest(f"{where}: the time has no zone; write 2026-01-31T12:00:00Z, for instance")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise BadRequest(f"{where}: {_short(value)} is out of range") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
