"""Validates one item of a request: the candidate channels, prices, cost limits and the random number u.

    {"window": {...}, "u": 0.42, "candidates": ["search", "video"], "price": 0.3}
    {"window": {...}, "u": 0.42, "price": {"search": 0.3, "video": 0.5}, "costs": {"video": 0.02}}

The window is validated elsewhere. `costs` has the highest possible cost of each channel.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.validation import first_fault
from mtorl.window.window import Instance

# fields that only the policies of other arms need
_FOR_OTHERS = ("user_id", "campaign_id", "timestamp", "context", "baseline")
MAX_PRICE = 1e9  # gain per currency unit; price * cost must stay finite


@dataclass(frozen=True)
class Asked:
    """The validated fields of an item. Each list has one value per channel."""

    candidates: list[bool]
    prices: list[float]
    most: list[float]  # highest possible cost in currency units; infinite if unknown
    u: float  # uniform random number in [0, 1) that selects the channel


def read_choice(item: Any, spec: DatasetSpec, usual_price: float) -> Asked:
    """Validate an item; raises ValueError. `usual_price` is the default price."""
    price = item.get("price") if isinstance(item, dict) else None
    if price is not None and not isinstance(price, dict):
        item = {**item, "price": dict.fromkeys(spec.channels, price)}
    try:
        checked = _type_of_items(spec.channels).validate_python(item)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    candidates, prices, costs = (checked.get(name) for name in ("candidates", "price", "costs"))
    return Asked(
        [candidates is None or channel in candidates for channel in spec.channels],
        [(prices or {}).get(channel, usual_price) for channel in spec.channels],
        [(costs or {}).get(channel, math.inf) for channel in spec.channels],
        checked["u"],
    )


@cache
def _type_of_items(channels: tuple[str, ...]) -> TypeAdapter[dict[str, Any]]:
    """Build the type of a valid item. Unknown fields are errors, such as a misspelt "price"."""
    channel: Any = Literal[channels]
    price = Annotated[float, Field(ge=0, le=MAX_PRICE)]
    fields = {
        "window": Any,
        "u": Annotated[float, Field(ge=0, lt=1)],
        "candidates": NotRequired[Annotated[list[channel], Field(min_length=1)] | None],
        "price": NotRequired[dict[channel, price] | None],
        "costs": NotRequired[dict[channel, Annotated[float, Field(ge=0)]] | None],
        **dict.fromkeys(_FOR_OTHERS, NotRequired[Any]),
    }
    item = cast(Any, TypedDict)("Item", fields)
    item.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return TypeAdapter(item)


def empty_window(spec: DatasetSpec) -> Instance:
    """Build the window of a user without history, context and features."""
    return {
        "timestamp": 0,
        "prev_channel": [None],
        "prev_timestamp": [None],
        **{f"prev_{outcome}": [0.0] for outcome in spec.window_outcomes},
        "context": {column.name: [None] for column in spec.context},
        "static": {column.name: None for column in spec.static},
        "features": {column.name: None for column in spec.feature_columns},
    }
