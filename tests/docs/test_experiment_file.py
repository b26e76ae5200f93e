"""Tests that docs/ lists the fields of the experiment file and their defaults."""

import re
from typing import Any

import pytest
import yaml
from pydantic_core import to_jsonable_python

from mtorl.experiment.arm import Arm
from mtorl.experiment.budget import Budget
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import Guardrail, Metrics
from mtorl.experiment.rule import Row
from mtorl.experiment.stages import Ramp, RampStage
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.exploration import Exploration
from mtorl.policy.schedule import Pacing
from mtorl.runtime.validation import StrictModel
from tests.repository import ROOT

PAGE = (ROOT / "docs" / "experiment-file.md").read_text()
MODELS: dict[str, type[StrictModel]] = {
    "The file": Experiment,
    "arms": Arm,
    "ramp": Ramp,
    "ramp: stages": RampStage,
    "explore": Exploration,
    "policy: rows": Row,
    "budgets": Budget,
    "pacing": Pacing,
    "metrics": Metrics,
    "guardrails": Guardrail,
}
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


@pytest.mark.parametrize("title", MODELS)
def test_a_table_has_each_field_with_its_default(title: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.*?) ?\|$", SECTIONS[title], re.M)
    fields = MODELS[title].model_fields
    assert [name for name, *_ in rows] == list(fields)
    for name, default, unit, _ in rows:
        field = fields[name]
        assert unit.strip(), name
        if field.is_required():
            assert default == "*required*", name
        elif field.default_factory is not None and name == "pacing":
            assert default == "depends", name
        else:
            assert yaml.safe_load(default.strip("`")) == to_jsonable_python(
                field.get_default(call_default_factory=True)
            )


def test_there_is_a_table_for_each_model_of_the_schema() -> None:
    schema = Experiment.model_json_schema()
    assert {model.__name__ for model in MODELS.values()} == {schema["title"], *schema["$defs"]}
    assert SECTIONS.keys() == {*MODELS, "All of it"}


@pytest.mark.parametrize("example", EXAMPLES, ids=["short", "all"])
def test_an_example_is_an_experiment(example: dict[str, Any]) -> None:
    Experiment.from_dict(example).check(DatasetSpec.load("simulator"))


def test_an_example_has_every_field() -> None:
    said = set(_fields(EXAMPLES[-1]))
    assert {name for model in MODELS.values() for name in model.model_fields} - said == {"budget_table"}


def _fields(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(name for inner in value.values() for name in _fields(inner))]
    return [name for inner in value for name in _fields(inner)] if isinstance(value, list) else []
