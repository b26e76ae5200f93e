"""Decisions in the Open Inference Protocol (KServe v2): text tensors in, one tensor for each field out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from mtorl.log.dataset import DatasetSpec
from mtorl.log.records import V2Answer, plain_types
from serving.kserve_sdk import InferOutput, InferRequest, InferResponse
from serving.router.flow.requests import BadRequest, DecisionRequest, parse_decisions

_REQUIRED = ("user_id", "campaign_id", "context")
_INPUTS = (*_REQUIRED, "request_id", "timestamp")
_DATATYPES = {str: "BYTES", bool: "BOOL", float: "FP64"}
_OUTPUTS = {name: _DATATYPES[type_] for name, type_ in plain_types(V2Answer).items()}


def parse_request(request: InferRequest, spec: DatasetSpec) -> list[DecisionRequest]:
    """The decisions that a v2 request asks for; `context` is JSON text."""
    tensors = {tensor.name: _texts(tensor) for tensor in request.inputs}
    unknown = sorted(set(tensors) - set(_INPUTS))
    missing = [name for name in _REQUIRED if name not in tensors]
    if unknown or missing:
        raise BadRequest(f"inputs must be {', '.join(_INPUTS)} (the last two are optional), got {', '.join(tensors)}")
    if len({len(values) for values in tensors.values()}) > 1:
        raise BadRequest(f"inputs differ in length: {', '.join(f'{k} {len(v)}' for k, v in tensors.items())}")
    tensors["context"] = [_context(i, text) for i, text in enumerate(tensors["context"])]
    rows = zip(*tensors.values(), strict=True)
    return parse_decisions({"instances": [dict(zip(tensors, row, strict=True)) for row in rows]}, spec)


def build_response(request: InferRequest, model: str, predictions: Sequence[dict[str, Any]]) -> InferResponse:
    """The answer to a v2 request."""
    outputs = []
    for name, datatype in _OUTPUTS.items():
        values = [prediction[name] for prediction in predictions]
        values = ["" if value is None else value for value in values]  # a tensor of text has no null
        outputs.append(InferOutput(name=name, shape=[len(values)], datatype=datatype, data=values))
    # Without an id of its own KServe 0.21 answers 500.
    return InferResponse(
        response_id=request.id or predictions[0]["decision_id"], model_name=model, infer_outputs=outputs
    )


def _texts(tensor: Any) -> list[Any]:
    # Contents that came as bytes beside the message are in the array alone.
    data = tensor.data or tensor.as_numpy().ravel().tolist()
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):  # gRPC: its own list, of bytes
        data = [_decoded(tensor.name, value) for value in data]
    if (
        tensor.datatype != "BYTES"
        or not isinstance(data, list)
        or list(tensor.shape) not in ([len(data)], [len(data), 1])
    ):
        raise BadRequest(f"input {tensor.name}: expected BYTES with shape [n] and n texts as data")
    return data


def _decoded(name: str, value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"input {name}: not UTF-8 text") from None


def _context(i: int, text: Any) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise BadRequest(f"context[{i}] is not JSON text: {error}") from None
