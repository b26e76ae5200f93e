"""Tests that the JSON schemas in docs/ equal the models' and accept the shipped files."""

import json
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.repository import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "write_schemas.py"))
NAMES: tuple[str, ...] = SCRIPT["NAMES"]


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_current(name: str) -> None:
    path = ROOT / "docs" / "schemas" / f"{name}.json"
    expected = SCRIPT["schema_text"](name)
    assert path.exists() and path.read_text(encoding="utf-8") == expected, "stale: run python scripts/write_schemas.py"
    if name != SCRIPT["OPENAPI"]:
        jsonschema.Draft202012Validator.check_schema(json.loads(expected))


def test_the_readme_names_every_schema_and_no_schema_of_a_removed_model_is_left() -> None:
    assert {path.stem for path in (ROOT / "docs" / "schemas").glob("*.json")} == set(NAMES)
    readme = (ROOT / "docs" / "schemas" / "README.md").read_text(encoding="utf-8")
    assert {name for name in NAMES if f"({name}.json)" in readme} == set(NAMES)


FILES = [("dataset", path) for path in sorted((ROOT / "mtorl" / "log" / "datasets").glob("*.yaml"))]
FILES += [("pipeline-schedule", ROOT / "manifests" / "pipelines" / "schedule.yaml")]


@pytest.mark.parametrize(("name", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_a_shipped_file_fits_its_schema(name: str, path: Path) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
