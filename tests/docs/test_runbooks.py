"""Commands of runbooks go to the namespace of the alert, which whoever is on call writes down once on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repository import ROOT

PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
FIRST = re.compile(r"```bash\nNS=mtorl +# the alert's label `namespace`\n")
HARD_CODED = re.compile(r"(?:-n|--namespace|namespace)[ =]mtorl\b")
# What is not in a namespace, or is in several, and what a person only hears of.
OF_NO_NAMESPACE = ("apply -k", "replace -f -", "get volumeattachment", "get isvc", "describe")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_take_the_namespace(page: Path) -> None:
    text = page.read_text()
    assert not HARD_CODED.search(text)
    blocks = [at.start() for at in re.finditer(r"^```bash$", text, re.M)]
    used = [at.start() for at in re.finditer(r"\$NS\b", text)]
    first = FIRST.search(text)
    assert first and first.start() == blocks[0] < min(used), "the first block says what the namespace is"
    for command in re.findall(r"\bkubectl ([^`|\n]+)", text):
        named = command.startswith(('-n "$NS" ', "-n kubeflow ", "-n monitoring ", "-n kserve "))
        assert named or command.startswith(OF_NO_NAMESPACE), command
