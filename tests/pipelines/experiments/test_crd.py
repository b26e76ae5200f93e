"""Tests that the custom resource definition is generated from the model and valid."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import METRICS, check_gain, check_metric
from mtorl.experiment.stage_machine import FIXED
from pipelines.experiments.crd import definition
from tests.repository import ROOT

SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    for inner in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if inner is not None:
            yield from parts(inner)


def test_the_file_is_generated_from_the_model() -> None:
    written = yaml.safe_load((ROOT / "manifests" / "crds" / "experiments.yaml").read_text())
    assert written == definition(), "stale: run python scripts/write_schemas.py"


def test_a_spec_has_the_fields_of_a_file_and_a_move() -> None:
    assert set(SPEC["properties"]) == set(Experiment.model_fields) - {"name"} | {"move"}
    required = {name for name, field in Experiment.model_fields.items() if field.is_required()}
    assert set(SPEC["required"]) == required - {"name"}


def test_the_schema_is_structural() -> None:
    for part in parts(SCHEMA):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "prefixItems", "title"} & set(part), part
        assert "default" not in part or part["type"] == "boolean", "only `enabled` may have a default"
        assert "type" in part or part.get("x-kubernetes-preserve-unknown-fields"), part
        assert not isinstance(part.get("exclusiveMinimum"), float), part
        assert part.get("additionalProperties") is not False, part


def test_each_fixed_field_has_a_rule() -> None:
    rules = " ".join(rule["rule"] for rule in SCHEMA["x-kubernetes-validations"])
    for name in FIXED:
        assert f"self.spec.{name} == oldSelf.spec.{name}" in rules
    assert len(SCHEMA["x-kubernetes-validations"]) == len(FIXED) + 1  # plus the rule on the arms' names


def allows(schema: dict[str, Any], name: str) -> bool:
    (rule,) = schema["x-kubernetes-validations"]
    pattern, _, forbidden = re.fullmatch(r"self\.matches\('(.*?)'\)( && !\(self in \[(.*)\]\))?", rule["rule"]).groups()  # type: ignore[union-attr]
    return re.search(pattern, name) is not None and f"'{name}'" not in (forbidden or "")


@pytest.mark.parametrize("what", ["gain", "click", "cost", "decision", "a_per_b", "9", "", "nosuch metric"])
@pytest.mark.parametrize("per", ["_per_decision", "_per_cost", "_per_click", "_per_", "_metric", ""])
def test_the_api_server_refuses_metrics_that_no_data_set_has(what: str, per: str) -> None:
    metrics, name = SPEC["properties"]["metrics"]["properties"], what + per
    assert allows(metrics["primary"], name) == is_known(name, check_gain)
    for named in (metrics["secondary"]["items"], metrics["guardrails"]["items"]["properties"]["name"]):
        assert allows(named, name) or not is_known(name, check_metric)
        assert not allows(named, "nosuch_metric") and all(allows(named, one) for one in METRICS)


def is_known(name: str, check: Callable[[str], str]) -> bool:
    try:
        return bool(check(name))
    except ValueError:
        return False
