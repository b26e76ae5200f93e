"""Tests that the notebook uses exactly the functions listed in docs/python.md."""

import ast
import importlib
import json
import re
from typing import Any

from tests.repository import ROOT

NOTEBOOK = ROOT / "examples" / "first-day" / "first-day.ipynb"
ROOMS = "features|mtorl|serving|monitoring"
LISTED = set(re.findall(rf"`((?:{ROOMS})\.[\w.]+)`", (ROOT / "docs" / "python.md").read_text()))


def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_functions_listed_in_the_page_exist_and_are_documented() -> None:
    assert LISTED
    for name in LISTED:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert found.__doc__ and not found.__doc__.startswith(f"{attribute}("), name


def test_the_notebook_calls_only_those_and_has_no_output() -> None:
    for cell in cells():
        assert not cell["outputs"] and cell["execution_count"] is None
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom):
                assert {f"{node.module}.{alias.name}" for alias in node.names} - LISTED <= {"pathlib.Path"}
