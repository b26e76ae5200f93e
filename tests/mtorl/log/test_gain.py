import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from mtorl.log.dataset import Column, DatasetSpec, RewardSpec, counted_gain
from mtorl.log.gain import Gain

names = st.sampled_from(["click", "conversion", "revenue", "profit", "seconds_viewed"])
weights = st.dictionaries(names, st.floats(1e-6, 1e6) | st.integers(1, 9), min_size=1)
values = st.floats(-1e9, 1e9)
SIMULATOR = DatasetSpec.load("simulator")


@given(weights, st.data())
def test_a_gain_is_the_weighted_sum_of_its_outcomes(spec: dict[str, float], data: st.DataObject) -> None:
    gain = Gain.of_spec(spec)
    columns = {name: data.draw(st.lists(values, min_size=3, max_size=3)) for name in spec}
    expected = sum(weight * np.array(columns[name]) for name, weight in spec.items())
    frame = pd.DataFrame({**columns, "cost": [1, 2, 3]})
    assert gain.of(frame) == pytest.approx(expected)
    assert gain.of({name: column[0] for name, column in columns.items()}) == pytest.approx(expected[0])


@given(names | weights)
def test_all_text_forms_of_a_gain_are_equal(spec: str | dict[str, float]) -> None:
    gain = Gain.of_spec(spec)
    assert Gain.of_spec(json.loads(json.dumps(gain.plain))) == gain
    assert Gain.of_text(gain.text) == Gain.of_text(yaml.safe_dump(gain.plain, sort_keys=False)) == gain
    assert RewardSpec.model_validate(RewardSpec(gain=gain).model_dump(mode="json")).gain == gain


@given(st.lists(values, min_size=1))
def test_a_single_outcome_is_its_own_gain_bit_for_bit(column: list[float]) -> None:
    gain = Gain.of_spec({"revenue": 1})
    assert gain == Gain.of_spec("revenue") and gain.plain == "revenue"
    assert gain.of({"revenue": column}).tobytes() == np.array(column).tobytes()


@pytest.mark.parametrize(
    "spec", [None, 3, "", [], {}, ["click"], {"click": "1"}, {"click": float("inf")}, {1: 1}, {"": 1}]
)
def test_an_invalid_gain_is_refused(spec: object) -> None:
    with pytest.raises(PydanticCustomError):
        Gain.of_spec(spec)


def test_windows_contain_the_outcomes_that_are_read() -> None:
    kuairand = DatasetSpec.load("kuairand")
    assert kuairand.outcomes and kuairand.window_outcomes == ("click", "conversion", "revenue", "cost")
    name = next(column.name for column in kuairand.outcomes if column.kind == "numeric")
    told = kuairand.replace(
        immediate=("click", name),
        outcomes=tuple(column.replace(missing="zero") for column in kuairand.outcomes if column.kind == "numeric"),
    )
    assert told.window_outcomes == ("click", "conversion", "revenue", "cost", name)
    assert name in told.outcome_kinds


@pytest.mark.parametrize(
    ("gain", "changes", "unit"),
    [
        ("click", {}, "clicks"),
        ("revenue", {}, "EUR"),
        ("revenue", {"outcome_labels": {}}, "EUR"),
        ("revenue", {"outcome_labels": {}, "currency": "currency unit"}, "currency units"),
        ("revenue", {"outcome_labels": {"revenue": "play time, ms"}}, "play time, ms"),
        ("watched", {}, "s of watched"),
        ("liked", {}, "liked"),
        ({"click": 0.1, "revenue": 1}, {}, "0.1 x click + revenue"),
    ],
)
def test_the_unit_of_the_gain(gain: object, changes: dict[str, Any], unit: str) -> None:
    outcomes = (
        Column(name="watched", kind="numeric", unit="s", missing="zero"),
        Column(name="liked", kind="numeric", missing="zero"),
    )
    spec = SIMULATOR.replace(outcomes=outcomes, reward={"gain": gain}, **changes)
    assert counted_gain(spec).unit == unit and counted_gain(spec) == spec.reward.gain
    assert counted_gain(spec).units.money == ("currency units" if "currency" in changes else "EUR")
