"""Writes docs/command-line.md, which lists all commands with the first paragraph of their help texts.

Run this script after changing a command.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "command-line.md"
HEAD = """# The command line

`make run` installs `mtorl` into `.venv`. Call `.venv/bin/mtorl`, or activate the environment:

    . .venv/bin/activate
    mtorl --help

- `-h` after any command shows its options, with examples to copy.
- With `--json`, the commands of `mtorl experiment` print only JSON.
- `mtorl --install-completion` adds completion to bash, zsh or fish.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a step failed; `mtorl data validate`: some rows are faulty |
| 2 | the input is invalid: an option, a file or a description |
| 3 | `mtorl monitor check`, `status`: drift without harm |
| 4 | `mtorl experiment status`, `verdict`: held until a person acts; `mtorl model rm`: the version is needed |
| 5 | `mtorl experiment status`, `verdict`: rolled back, harm or switched off; `mtorl monitor`: harm, broken column |
| 6 | `mtorl monitor check`, `status`: a check was impossible |
| 130 | stopped by Ctrl-C |

*Written by `scripts/write_command_line.py`; do not edit.*

| command | what it does |
|---|---|
"""


def page() -> str:
    """Build the text of the page, with one row for each command."""
    import typer

    from cli.main import app

    rows = _rows(typer.main.get_command(app), "mtorl")
    return HEAD + "".join(f"| `{name}` | {text} |\n" for name, text in rows)


def _rows(command: Any, name: str) -> Iterator[tuple[str, str]]:
    if not hasattr(command, "commands"):
        yield name, " ".join(command.help.split("\n\n")[0].split())
    for part, below in getattr(command, "commands", {}).items():
        yield from _rows(below, f"{name} {part}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
