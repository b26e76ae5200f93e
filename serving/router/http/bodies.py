"""Types of answers, for `openapi.py`; those of KServe's own routes are in its SDK."""

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from mtorl.log.records import V1Answer
from serving.router.http.v2 import OUTPUTS
from serving.router.ops.drills import Drill

_EXACT = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

Count = Annotated[int, Field(ge=0)]


class _Exact(BaseModel):
    model_config = _EXACT


class Error(_Exact):
    """Why there is no answer."""

    error: str
    """A sentence for people: what is wrong, where, and what was expected there."""


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
    """What became of a report; all of it is on disk."""

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


@with_config(_EXACT)
class Ready(TypedDict):
    """Whether requests may come."""

    ready: bool
    waiting_for: NotRequired[str]
    """Why no decisions can be made yet."""
    draining: NotRequired[bool]
    """The router is about to end."""
    parts: NotRequired[dict[str, str]]
    """Part -> "ok", or what is wrong with it. Decisions are made all the same, with the default action if need be."""
    experiments: NotRequired[dict[str, str]]
    """Experiment -> the version by which decisions are made, with its accounts."""


class Alive(_Exact):
    """KServe's answer at the root."""

    status: Literal["alive"]
