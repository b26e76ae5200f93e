import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import app
from tests.repository import ROOT

PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
FIRST = re.compile(r"```bash\nNS=mtorl +# the alert's label `namespace`\n")
HARD_CODED = re.compile(r"(?:-n|--namespace|namespace)[ =]mtorl\b")
# Commands that have no namespace, use several namespaces, or are only quoted.
OF_NO_NAMESPACE = ("apply -k", "replace -f -", "get volumeattachment", "get isvc", "describe")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_take_the_namespace(page: Path) -> None:
    text = page.read_text()
    assert not HARD_CODED.search(text)
    first = FIRST.search(text)
    assert first and first.start() == text.index("```bash\n") < text.index("$NS"), "the first block must set NS"
    for command in re.findall(r"\bkubectl ([^`|\n]+)", text):
        named = command.startswith(('-n "$NS" ', "-n kubeflow ", "-n monitoring ", "-n kserve "))
        assert named or command.startswith(OF_NO_NAMESPACE), command


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_each_runbook_covers_a_laptop(page: Path) -> None:
    (section,) = re.findall(r"^## On a laptop\n\n(.*)", page.read_text(), re.M | re.S)
    blocks = re.findall(r"^```bash\n(.*?)^```$", section, re.M | re.S)
    assert len(blocks) == 1 or section.startswith("This alert is for a cluster only: ")
    for line in "".join(blocks).splitlines():
        program, *words = shlex.split(line, comments=True)
        if program != "mtorl":
            assert program in ("curl", "tail", "du", "ls", "cat"), line
            continue
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context("mtorl", words)  # raises for an unknown option or argument


SILENCE = re.compile(r"silence add alertname=(\w+) (.*?)(?=--|\\\n)")
GROUPS = yaml.safe_load((ROOT / "manifests" / "base" / "monitoring" / "rules.yaml").read_text())["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
LABELS = {one["alert"]: {*re.findall(r"by \(([\w, ]+)\)", one["expr"])[0].split(", "), *one["labels"]} for one in RULES}


def silences_fit(text: str) -> bool:
    """Return whether each silence names its alert's namespace, experiment and arm, and no unknown label."""
    found = [(LABELS[name], set(re.findall(r"(\w+)=", labels))) for name, labels in SILENCE.findall(text)]
    return all(has & {"namespace", "experiment", "arm"} <= used <= has for has, used in found)


def test_silences_have_labels_of_their_alerts() -> None:
    for page in (*PAGES, ROOT / "docs" / "alerting.md"):
        named = {name for name, _ in SILENCE.findall(page.read_text())}
        assert silences_fit(page.read_text()) and (page not in PAGES or named <= {page.stem}), page.name
    for wrong in ("MtorlDrift namespace=a arm=b", "MtorlArmSilent namespace=a", "MtorlHarm kind=harm"):
        assert not silences_fit(f"silence add alertname={wrong} --duration=4h"), wrong
