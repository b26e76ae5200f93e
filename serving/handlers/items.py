"""Reads and checks the candidates, prices, costs and u that a client sends with one window.

    {"window": {...}, "u": 0.42, "candidates": ["search", "video"], "price": 0.3}
    {"window": {...}, "u": 0.42, "price": {"search": 0.3, "video": 0.5}, "costs": {"video": 0.02}}

A price is one number for all channels, or one for each, as a pacing controller sets them. Without one the price of the
artifact applies. Costs are the highest possible ones at this moment: a forecast above them is lowered to them. The
router's items also name the user, the campaign, the time, the context and the caller's own choice, for other arms.
"""

import math
from dataclasses import dataclass
from typing import Any

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import Instance

_FIELDS = ("window", "u", "candidates", "price", "costs")
_FOR_OTHERS = ("user_id", "campaign_id", "timestamp", "context", "baseline")  # from the router, for arms of others
MAX_PRICE = 1e9  # gain per currency unit; keeps price * cost finite


@dataclass(frozen=True)
class Asked:
    """What an item asks. The lists have one value for each channel of the data set."""

    candidates: list[bool]
    prices: list[float]
    most: list[float]  # highest possible cost, currency units; infinite where none is known
    u: float  # of the channel to be drawn


def read_choice(item: Any, spec: DatasetSpec, usual_price: float) -> Asked:
    """Read an item; raises ValueError with what is wrong with it."""
    if not isinstance(item, dict) or "window" not in item:
        raise ValueError("an instance must be an object with window and u")
    # A misspelt "price" must not be ignored: the decision would spend by another price.
    if unknown := [name for name in item if name not in (*_FIELDS, *_FOR_OTHERS)]:
        raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    u = _number(item.get("u"))
    if not 0 <= u < 1:
        raise ValueError("u must be a number in [0, 1)")
    candidates, prices = _candidates(item.get("candidates"), spec), _prices(item.get("price"), spec, usual_price)
    return Asked(candidates, prices, _costs(item.get("costs"), spec), u)


def empty_window(spec: DatasetSpec) -> Instance:
    """The window of a user without history, and without context."""
    return {
        "timestamp": 0,
        "prev_channel": [None],
        "prev_timestamp": [None],
        **{f"prev_{outcome}": [0.0] for outcome in spec.window_outcomes},
        "context": {column.name: [None] for column in spec.context},
        "static": {column.name: None for column in spec.static},
        "features": {column.name: None for column in spec.feature_columns},
    }


def _candidates(names: Any, spec: DatasetSpec) -> list[bool]:
    if names is None:
        names = spec.channels
    elif not isinstance(names, list) or not names or any(name not in spec.channels for name in names):
        raise ValueError(f"candidates must be a list with some of: {', '.join(spec.channels)}")
    return [channel in names for channel in spec.channels]


def _prices(price: Any, spec: DatasetSpec, usual: float) -> list[float]:
    """The price of each channel: one for all, or by channel, else the usual one."""
    if not isinstance(price, dict):
        return [usual if price is None else _one_price(price, "price")] * len(spec.channels)
    if unknown := [name for name in price if name not in spec.channels]:
        raise ValueError(f"price names the unknown channel {unknown[0]!r}; known: {', '.join(spec.channels)}")
    return [_one_price(price[name], f"price.{name}") if name in price else usual for name in spec.channels]


def _costs(costs: Any, spec: DatasetSpec) -> list[float]:
    if costs is None:
        return [math.inf] * len(spec.channels)
    if not isinstance(costs, dict) or any(name not in spec.channels for name in costs):
        raise ValueError(f"costs must be an object of channel and number, with some of: {', '.join(spec.channels)}")
    if wrong := [name for name in costs if not _number(costs[name]) >= 0]:
        raise ValueError(f"costs.{wrong[0]} must be a number of at least 0")
    return [float(costs.get(name, math.inf)) for name in spec.channels]


def _one_price(value: Any, name: str) -> float:
    price = _number(value)
    if not 0 <= price <= MAX_PRICE:
        raise ValueError(f"{name} must be a number from 0 to {MAX_PRICE:g}")
    return price


def _number(value: Any) -> float:
    """The number, or NaN, for which every comparison is false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan
