"""Computes the gain of an exposure, which is one numeric outcome or a weighted sum of several outcomes.

`Gain.of_spec({"click": 0.1, "revenue": 1}).of(rows)` computes the gains of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Annotated, Any, NamedTuple

import numpy as np
import yaml
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from mtorl.arrays import Floats
from mtorl.runtime.validation import short


class Units(NamedTuple):
    """Units of money and of outcomes, for display."""

    money: str = "currency units"
    outcomes: tuple[tuple[str, str], ...] = ()  # unit by outcome

    def of(self, outcome: str) -> str:
        """Return the unit of an outcome or of the cost."""
        counted = {"cost": self.money, "click": "clicks", "conversion": "conversions"} | dict(self.outcomes)
        return counted.get(outcome, outcome)


@dataclass(frozen=True)
class Gain:
    """A weighted sum of outcomes. A gain that is one outcome has one term with weight 1."""

    # Pairs of an outcome and its weight, which is above 0.
    terms: tuple[tuple[str, float], ...]
    units: Units = field(default=Units(), compare=False, repr=False)  # for display

    @classmethod
    def of_spec(cls, value: object) -> Gain:
        """Create a gain from the name of an outcome, or from a mapping of outcomes to weights.

        Raises:
            ValueError: the value is neither of these, or a weight is not a finite number above 0.
        """
        if isinstance(value, Gain):
            return value
        weights = {value: 1.0} if isinstance(value, str) else value
        if not (isinstance(weights, Mapping) and weights and all(isinstance(n, str) and n.strip() for n in weights)):
            raise _fault("expected the name of an outcome, or weights by name such as {click: 0.1, revenue: 1}", value)
        for name, weight in weights.items():
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not (number and math.isfinite(weight) and weight > 0):
                raise _fault(f"the weight of {name!r} is a finite number above 0", weight)
        return cls(tuple((name, float(weight)) for name, weight in weights.items()))

    @classmethod
    def of_text(cls, text: str) -> Gain:
        """Create a gain from one line of YAML, such as `click` or `{click: 0.1, revenue: 1}`."""
        try:
            return cls.of_spec(yaml.safe_load(text))
        except yaml.YAMLError:
            return cls.of_spec(text)

    @property
    def text(self) -> str:
        """Return the gain as one line of YAML."""
        text = yaml.safe_dump(self.plain, default_flow_style=True, sort_keys=False, width=10_000)
        return text.removesuffix("...\n").strip()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the outcomes in the sum."""
        return tuple(name for name, _ in self.terms)

    @property
    def plain(self) -> str | dict[str, float]:
        """Return the gain as a value for YAML: an outcome's name, or weights by outcome."""
        return self.names[0] if self.terms[0][1] == 1.0 and len(self.terms) == 1 else dict(self.terms)

    @property
    def unit(self) -> str:
        """Return the unit of the gain, for display. A weighted sum shows its formula."""
        if self.plain == self.names[0]:
            return self.units.of(self.names[0])
        return " + ".join(name if weight == 1.0 else f"{weight:g} x {name}" for name, weight in self.terms)

    def of(self, outcomes: Mapping[str, Any] | Any) -> Floats:
        """Return the gain of each exposure, given outcomes by name."""
        parts = (weight * np.asarray(outcomes[name], dtype=np.float64) for name, weight in self.terms)
        return np.asarray(reduce(add, parts))

    def __str__(self) -> str:
        return " + ".join(name if weight == 1.0 else f"{weight:g} {name}" for name, weight in self.terms)


def _fault(expected: str, value: object) -> PydanticCustomError:
    return PydanticCustomError("gain", "{expected}, got {given}", {"expected": expected, "given": short(value)})


_WEIGHTS = {"minProperties": 1, "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
GainOfSpec = Annotated[
    Gain,
    BeforeValidator(Gain.of_spec),
    PlainSerializer(lambda gain: gain.plain, return_type=str | dict[str, float]),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", **_WEIGHTS}]}),
]
"""Type of a pydantic field that is a gain: the name of an outcome, or a weighted sum of outcomes."""
