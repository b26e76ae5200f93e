"""Rules that hold for every component."""
# No `from __future__ import annotations`: kfp needs the annotations below as objects.

import ast
import importlib

import pytest

from components.component import StepTraits, component, traits_of
from scripts.write_component_pages import page
from tests.repository import ROOT

NAMES = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_component_has_a_folder_and_a_test(name: str) -> None:
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions == [name]
    tests = (ROOT / "tests" / "components").glob("*.py")
    assert any(f"{name}.python_func(" in path.read_text() for path in tests)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_component_is_current(name: str) -> None:
    kept = ROOT / "components" / name / "README.md"
    assert kept.read_text() == page(name), f"{kept} is stale: python scripts/write_component_pages.py"


def test_every_component_is_part_of_a_pipeline_and_each_of_its_parameters_is_described() -> None:
    for name in NAMES:
        assert "Used by no" not in page(name), name
        taken = page(name).split("| input |")[1].split("| output |")[0]
        assert "|  |" not in taken, f"{name}: a parameter is not described"


@pytest.mark.parametrize("name", NAMES)
def test_a_component_has_a_readable_title(name: str) -> None:
    step = getattr(importlib.import_module(f"components.{name}.component"), name).name
    assert step == name.replace("_", "-")
    assert traits_of(step).title != step or name in ("gate", "verdict")


def test_a_step_knows_its_component() -> None:
    @component("count twice", cached=False, trains=True)
    def count_twice(number: int) -> int:
        return 2 * number

    assert count_twice.python_func(2) == 4
    assert traits_of("count-twice") == StepTraits("count twice", cached=False, trains=True)
    assert traits_of("someone-elses-step") == StepTraits("someone-elses-step")
