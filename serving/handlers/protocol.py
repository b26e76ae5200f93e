"""Parses and writes the bodies of KServe's protocols v1 and v2.

    v1   {"instances": [<item>, ...]}
         -> {"predictions": [<answer or {"error": "..."}>, ...]}
    v2   {"inputs": [{"name": "instances", "datatype": "BYTES", "shape": [n], "data": ["<an item as JSON>", ...]}]}
         -> {"outputs": [{"name": "decisions", "datatype": "BYTES", "shape": [n], "data": ["<an answer>", ...]}]}

Answers to requests for explanations have the name "explanations" instead.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving import messages

MAX_INSTANCES = 256  # a batch of eight requests must end before the response timeout
# An explanation runs the model once per touchpoint.
MAX_EXPLAINED = 4
JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Verb:
    """A kind of request, and the names of its results in v1 and v2."""

    most: int  # largest number of items in a request
    v1: str
    v2: str


PREDICT = Verb(MAX_INSTANCES, "predictions", "decisions")
EXPLAIN = Verb(MAX_EXPLAINED, "explanations", "explanations")


def read_body(row: dict[str, Any]) -> dict[str, Any] | None:
    """Parse the JSON object in a request; None if the body is empty. Raises ValueError."""
    body = row.get("body", row.get("data"))
    if body is None:  # without a content type, TorchServe parses a form
        raise ValueError(messages.NO_BODY(type=JSON_TYPE))
    if isinstance(body, str | bytes | bytearray):
        if not body:
            return None
        try:
            body = json.loads(body, parse_constant=_no_constant)
        # RecursionError: too many nested brackets
        except (ValueError, RecursionError) as error:
            raise ValueError(messages.NOT_JSON(fault=error)) from None
    if not isinstance(body, dict):
        raise ValueError(messages.NO_REQUEST())
    return body


def read_items(body: dict[str, Any], verb: Verb) -> list[Any]:
    """Return the items of a v1 or v2 request; raises ValueError if there is no valid list.

    If one item of a v2 request is not JSON, it stays a text, so that the other items can still be answered.
    """
    if "inputs" in body:
        tensor = body["inputs"][0] if isinstance(body["inputs"], list) and len(body["inputs"]) == 1 else None
        if not isinstance(tensor, dict) or tensor.get("name") != "instances" or tensor.get("datatype") != "BYTES":
            raise ValueError(messages.WRONG_TENSOR())
        items = tensor.get("data")
        if not isinstance(items, list) or tensor.get("shape") != [len(items)]:
            raise ValueError(messages.WRONG_SHAPE())
        items = [_text_item(text) for text in items]
    else:
        items = body.get("instances")
    if not isinstance(items, list) or not 0 < len(items) <= verb.most:
        raise ValueError(messages.WRONG_NUMBER(most=verb.most))
    return items


def tensor_of(answers: Sequence[dict[str, Any]], verb: Verb) -> dict[str, Any]:
    """Encode answers as the output tensor of v2."""
    texts = [dump(answer).decode() for answer in answers]
    return {"name": verb.v2, "datatype": "BYTES", "shape": [len(texts)], "data": texts}


def dump(answer: Any) -> bytes:
    """Encode an answer as compact JSON; raises ValueError for NaN."""
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


def _text_item(text: Any) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, TypeError, RecursionError):
        return text


def _no_constant(name: str) -> float:
    raise ValueError(name)
