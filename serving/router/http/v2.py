"""Decisions in the Open Inference Protocol (KServe v2): text tensors in, one tensor for each field out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

from mtorl.log.records import V2Answer, plain_types
from serving.kserve_sdk import InferOutput, InferRequest, InferResponse, values_of
from serving.router.flow.requests import BadRequest, DecisionParser, DecisionRequest, Instance

_REQUIRED = ("user_id", "campaign_id", "context")
INPUTS = tuple(Instance.__annotations__)
_JSON = set(INPUTS) - {"user_id", "campaign_id", "request_id", "timestamp"}
_DATATYPES = {str: "BYTES", bool: "BOOL", float: "FP64"}
OUTPUTS = {name: _DATATYPES[type_] for name, type_ in plain_types(V2Answer).items()}


def parse_request(request: InferRequest, parser: DecisionParser) -> list[DecisionRequest]:
    """The decisions that a v2 request asks for; fields that are no texts are JSON. Raises BadRequest."""
    tensors = {tensor.name: _texts(tensor) for tensor in request.inputs}
    if not set(_REQUIRED) <= set(tensors) <= set(INPUTS):
        optional = ", ".join(name for name in INPUTS if name not in _REQUIRED)
        raise BadRequest(f"inputs must be {', '.join(_REQUIRED)} and may be {optional}, got {', '.join(tensors)}")
    if len({len(texts) for texts in tensors.values()}) > 1:
        lengths = ", ".join(f"{name} {len(texts)}" for name, texts in tensors.items())
        raise BadRequest(f"inputs differ in length: {lengths}")
    for name in _JSON & set(tensors):
        tensors[name] = [_parsed(f"{name}[{i}]", text) for i, text in enumerate(tensors[name])]
    instances = [dict(zip(tensors, row, strict=True)) for row in zip(*tensors.values(), strict=True)]
    return parser.parse({"instances": instances})


def build_response(request: InferRequest, model: str, predictions: Sequence[dict[str, Any]]) -> InferResponse:
    """The answer to a v2 request."""
    outputs = []
    for name, datatype in OUTPUTS.items():
        values = [prediction[name] for prediction in predictions]
        unknown = math.nan if datatype == "FP64" else ""  # a tensor has no null
        values = [unknown if value is None else value for value in values]
        outputs.append(InferOutput(name=name, shape=[len(values)], datatype=datatype, data=values))
    # Without an id of its own KServe 0.21 answers 500.
    return InferResponse(
        response_id=request.id or predictions[0]["decision_id"], model_name=model, infer_outputs=outputs
    )


def _texts(tensor: Any) -> list[Any]:
    data = values_of(tensor)
    if (
        tensor.datatype != "BYTES"
        or not isinstance(data, list)
        or list(tensor.shape) not in ([len(data)], [len(data), 1])
    ):
        raise BadRequest(f"input {tensor.name}: expected BYTES with shape [n] and n texts as data")
    return data


def _parsed(place: str, text: Any) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise BadRequest(f"{place} is not JSON text: {error}") from None
