from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from mtorl.runtime.validation import FromList, StrictModel, Text, first_fault


class Arm(StrictModel):
    name: Text
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    kind: Literal["incumbent", "challenger"] = "incumbent"


class Plan(StrictModel):
    arms: Annotated[tuple[Arm, ...], FromList]
    days: Annotated[int, Field(gt=0)] = 7


def fault_of(data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(data)
    return first_fault(caught.value)


def test_valid_data_are_read_and_frozen() -> None:
    plan = Plan.model_validate({"arms": [{"name": "a"}, {"name": "b", "weight": 1}]})
    assert plan.arms == (Arm(name="a"), Arm(name="b", weight=1.0)) and plan.days == 7
    with pytest.raises(ValidationError):
        plan.days = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a mapping of fields, got []"),
        ({}, "missing field 'arms'"),
        ({"arms": [], "dayz": 3}, "unknown field 'dayz'; known: arms, days"),
        ({"arms": [{"name": "a"}, {"weight": 1.0}]}, "arms[1]: missing field 'name'"),
        ({"arms": [{"name": " "}]}, "arms[0].name: expected text, got ' '"),
        ({"arms": [{"name": True}]}, "arms[0].name: expected text, got True (names such as 'on' or '1' need quotes)"),
        ({"arms": [{"name": "a", "weight": "5%"}]}, "arms[0].weight: expected a number, got '5%'"),
        ({"arms": [{"name": "a", "weight": 2}]}, "arms[0].weight: expected a number of at most 1, got 2"),
        ({"arms": [{"name": "a", "kind": "rival"}]}, "arms[0].kind: 'rival' is not one of incumbent, challenger"),
        ({"arms": [], "days": 0}, "days: expected a whole number above 0, got 0"),
    ],
)
def test_the_first_fault_names_place_expectation_and_value(data: Any, message: str) -> None:
    assert fault_of(data).startswith(message)
