"""The custom resource's definition follows from the model, and Kubernetes can take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import FIXED
from pipelines.experiments.crd import definition, structural
from tests.repository import ROOT

SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    for inner in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if inner is not None:
            yield from parts(inner)


def test_the_file_is_written_of_the_model() -> None:
    written = yaml.safe_load((ROOT / "manifests" / "crds" / "experiments.yaml").read_text())
    assert written == definition(), "run python scripts/write_schemas.py"


def test_a_spec_has_the_fields_of_a_file_and_a_move() -> None:
    assert set(SPEC["properties"]) == set(Experiment.model_fields) - {"name", "promotion"} | {"move"}
    required = {name for name, field in Experiment.model_fields.items() if field.is_required()}
    assert set(SPEC["required"]) == required - {"name"}


def test_it_is_structural() -> None:
    for part in parts(SCHEMA):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "prefixItems", "title", "default"} & set(part), part
        assert "type" in part or part.get("x-kubernetes-preserve-unknown-fields"), part
        assert not isinstance(part.get("exclusiveMinimum"), float), part
        assert part.get("additionalProperties") is not False, part


def test_each_fixed_field_has_a_rule() -> None:
    rules = " ".join(rule["rule"] for rule in SCHEMA["x-kubernetes-validations"])
    for name in FIXED:
        assert f"self.spec.{name} == oldSelf.spec.{name}" in rules
    assert len(SCHEMA["x-kubernetes-validations"]) == len(FIXED) + 1  # the names of the arms


def test_overrides_may_change_and_a_holdout_may_not_once_it_has_begun() -> None:
    rules = [rule["rule"] for rule in SCHEMA["x-kubernetes-validations"]]
    assert sum("holdout" in rule for rule in rules) == 1 and not any("overrides" in rule for rule in rules)
    assert SPEC["properties"]["overrides"]["maxProperties"] == 1000
    assert SPEC["properties"]["overrides"]["additionalProperties"]["type"] == "string"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            {"type": "string", "nullable": True, "maxLength": 1000},
        ),
        (
            {"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]},
            {"type": "string", "nullable": True},
        ),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "minimum": 0, "exclusiveMinimum": True}),
        ({"const": "user_id", "type": "string"}, {"type": "string", "enum": ["user_id"]}),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, {"x-kubernetes-preserve-unknown-fields": True}),
        (
            {"type": "object", "additionalProperties": True},
            {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        ),
    ],
)
def test_what_json_schema_says_otherwise(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert structural(schema) == expected
