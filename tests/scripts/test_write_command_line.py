"""docs/command-line.md has every command, with its help."""

import runpy

from tests.repository import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "write_command_line.py"))


def test_the_page_is_current() -> None:
    assert SCRIPT["PAGE"].read_text(encoding="utf-8") == SCRIPT["page"](), "run python scripts/write_command_line.py"
