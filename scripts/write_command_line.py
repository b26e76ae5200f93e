"""Write docs/command-line.md from the commands themselves.

    python scripts/write_command_line.py    after a command has changed; a test fails until then

A command's row is the first paragraph of its help.
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
- `--json` of a command of `mtorl experiment` prints JSON alone.
- `mtorl --install-completion` adds completion to bash, zsh or fish.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a step failed; for `mtorl data validate`: some rows cannot be used |
| 2 | the input cannot be used: an option, a file, a description |
| 3 | only `mtorl monitor check` and `status`: something moved, without harm |
| 4 | only `mtorl experiment status` and `verdict`: held, a person must act; `mtorl model rm`: the version is needed |
| 5 | the same commands: rolled back, guardrail breached, or switched off; `mtorl monitor`: harm, or a broken column |
| 6 | only `mtorl monitor check` and `status`: something could not be judged |
| 130 | stopped by Ctrl-C |

*Written by `scripts/write_command_line.py`; do not edit.*

| command | what it does |
|---|---|
"""


def page() -> str:
    """The page, with a row for each command."""
    import typer

    from cli.main import app

    rows = _rows(typer.main.get_command(app), "mtorl")
    return HEAD + "".join(f"| `{name}` | {text} |\n" for name, text in rows)


def _rows(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Name and first paragraph of the help of each command below one."""
    if not hasattr(command, "commands"):
        yield name, " ".join(command.help.split("\n\n")[0].split())
    for part, below in getattr(command, "commands", {}).items():
        yield from _rows(below, f"{name} {part}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
