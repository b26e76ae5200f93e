"""Converts requests and answers of the Open Inference Protocol (KServe v2)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mtorl.log.records import V2Answer, plain_types
from mtorl.runtime.validation import first_fault
from serving.kserve_sdk import DECODING, InferenceError, InferRequest
from serving.router.flow.requests import BadRequest, DecisionParser, DecisionRequest, Instance, parse_json

INPUTS = tuple(Instance.__annotations__)
_JSON = set(INPUTS) - {"user_id", "campaign_id", "request_id", "timestamp"}
_DATATYPES = {str: "BYTES", bool: "BOOL", float: "FP64"}
OUTPUTS = {name: _DATATYPES[type_] for name, type_ in plain_types(V2Answer).items()}


class InputTensor(TypedDict):
    """The values of one field of `Instance`, one for each instance."""

    name: Annotated[Literal[INPUTS], Field(description="A field of `Instance`.")]  # type: ignore[valid-type]
    datatype: Literal["BYTES"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2, description="[n] or [n, 1].")]
    data: Annotated[
        list[str],
        Field(min_length=1, description="n texts. For fields that are not texts, such as `context`, each is JSON."),
    ]


class InferBody(TypedDict):
    """The body of a request for decisions in protocol v2."""

    id: NotRequired[Annotated[str | None, Field(description="Id of the request, which the answer repeats.")]]
    inputs: Annotated[
        list[InputTensor],
        Field(min_length=1, max_length=len(INPUTS), description="Fields of instances, as tensors of equal length."),
    ]


_ADAPTER: TypeAdapter[InferBody] = TypeAdapter(InferBody)


def parse_request(body: bytes, json_bytes: bytes | None, parser: DecisionParser) -> tuple[list[DecisionRequest], str]:
    """Parse a v2 request; returns the requested decisions, and the request's id or "". Raises BadRequest.

    `json_bytes` is the length of the JSON message in bytes; None if no binary tensors follow.
    """
    try:
        message = _ADAPTER.validate_python(parse_json(body) if json_bytes is None else _in_json(body, json_bytes))
    except ValidationError as error:
        raise BadRequest(first_fault(error)) from None
    tensors: dict[str, list[Any]] = {}
    for tensor in message["inputs"]:
        name, texts = tensor["name"], tensor["data"]
        if tensor["shape"] not in ([len(texts)], [len(texts), 1]):
            raise BadRequest(f"input {name}: expected shape [{len(texts)}], got {tensor['shape']}")
        tensors[name] = [_parsed(f"{name}[{i}]", text) for i, text in enumerate(texts)] if name in _JSON else texts
    if len({len(texts) for texts in tensors.values()}) > 1:
        lengths = ", ".join(f"{name} {len(texts)}" for name, texts in tensors.items())
        raise BadRequest(f"inputs differ in length: {lengths}")
    instances = [dict(zip(tensors, row, strict=True)) for row in zip(*tensors.values(), strict=True)]
    return parser.parse({"instances": instances}), message.get("id") or ""


def build_response(model: str, request_id: str, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Build the answer to a v2 request, by default with the id of the first decision."""
    outputs = []
    for name, datatype in OUTPUTS.items():
        unknown = None if datatype == "FP64" else ""
        data = [unknown if prediction[name] is None else prediction[name] for prediction in predictions]
        outputs.append({"name": name, "shape": [len(data)], "datatype": datatype, "data": data})
    return {"model_name": model, "id": request_id or predictions[0]["decision_id"], "outputs": outputs}


def _in_json(body: bytes, json_bytes: bytes) -> dict[str, Any]:
    try:
        message: dict[str, Any] = InferRequest.from_bytes(body, int(json_bytes), "").to_dict()
    except (*DECODING, InferenceError) as error:
        raise BadRequest(f"the request can't be decoded: {type(error).__name__}: {error}") from None
    return message


def _parsed(place: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{place} is not JSON text: {error}") from None
