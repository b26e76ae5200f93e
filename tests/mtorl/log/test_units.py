"""Units of gain and money, as descriptions say them."""

from __future__ import annotations

from typing import Any

import pytest

from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.units import counted_gain

SPEC = DatasetSpec.load("simulator")


@pytest.mark.parametrize(
    ("gain", "changes", "unit"),
    [
        ("click", {}, "clicks"),
        ("conversion", {}, "conversions"),
        ("revenue", {}, "EUR"),
        ("revenue", {"outcome_labels": {}}, "EUR"),
        ("revenue", {"outcome_labels": {}, "currency": "currency unit"}, "currency units"),
        ("revenue", {"outcome_labels": {"revenue": "play time, ms"}}, "play time, ms"),
        ("watched", {}, "s of watched"),
        ("liked", {}, "liked"),
        ({"click": 0.1, "revenue": 1}, {}, "0.1 x click + revenue"),
        ({"click": 0.5}, {}, "0.5 x click"),
    ],
)
def test_the_unit_of_the_gain(gain: object, changes: dict[str, Any], unit: str) -> None:
    outcomes = (
        Column(name="watched", kind="numeric", unit="s", missing="zero"),
        Column(name="liked", kind="numeric", missing="zero"),
    )
    spec = SPEC.replace(outcomes=outcomes, reward={"gain": gain}, **changes)
    assert counted_gain(spec).unit == unit and counted_gain(spec) == spec.reward.gain


def test_the_unit_of_money() -> None:
    assert counted_gain(SPEC).units.money == "EUR"
    assert counted_gain(SPEC.replace(currency="currency unit")).units.money == "currency units"
