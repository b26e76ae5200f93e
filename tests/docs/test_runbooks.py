"""Commands of runbooks use the alert's namespace, which the reader sets once at the top of a page."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app
from tests.repository import ROOT

PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
FIRST = re.compile(r"```bash\nNS=mtorl +# the alert's label `namespace`\n")
HARD_CODED = re.compile(r"(?:-n|--namespace|namespace)[ =]mtorl\b")
# Commands without a namespace, with several, or not meant to be run.
OF_NO_NAMESPACE = ("apply -k", "replace -f -", "get volumeattachment", "get isvc", "describe")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_take_the_namespace(page: Path) -> None:
    text = page.read_text()
    assert not HARD_CODED.search(text)
    blocks = [at.start() for at in re.finditer(r"^```bash$", text, re.M)]
    used = [at.start() for at in re.finditer(r"\$NS\b", text)]
    first = FIRST.search(text)
    assert first and first.start() == blocks[0] < min(used), "the first block must set the namespace"
    for command in re.findall(r"\bkubectl ([^`|\n]+)", text):
        named = command.startswith(('-n "$NS" ', "-n kubeflow ", "-n monitoring ", "-n kserve "))
        assert named or command.startswith(OF_NO_NAMESPACE), command


def commands_on_a_laptop(page: Path) -> list[str]:
    """Return the commands in a page's laptop section; none if the alert exists only on a cluster."""
    (section,) = re.findall(r"^## On a laptop\n\n(.*)", page.read_text(), re.M | re.S)
    if section.startswith("This alert is for a cluster only: "):
        return []
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.M | re.S)
    return str(block).splitlines()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_each_runbook_covers_a_laptop(page: Path) -> None:
    commands = commands_on_a_laptop(page)
    assert commands or page.stem in ("MtorlOperatorDown", "MtorlRolloutStuck")
    assert "kubectl" not in "".join(commands)
    for line in commands:
        program, *words = shlex.split(line, comments=True)
        if program != "mtorl":
            assert program in ("curl", "tail", "du", "ls", "cat"), line
            continue
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context("mtorl", words)  # raises for an unknown option or argument
