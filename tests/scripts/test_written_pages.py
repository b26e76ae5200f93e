"""docs/command-line.md has every command, docs/metrics.md every metric, with the words of the code."""

import runpy

import pytest

from tests.repository import ROOT


@pytest.mark.parametrize("name", ["write_command_line", "write_metrics"])
def test_the_page_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), f"run python scripts/{name}.py"
