"""docs/results.md says what docs/results.json says."""

import json

from mtorl.comparison.report import report
from tests.repository import ROOT

DOCS = ROOT / "docs"


def test_the_page_is_made_of_the_figures() -> None:
    figures = json.loads((DOCS / "results.json").read_text())
    assert (DOCS / "results.md").read_text() == report(figures["results"], figures["environment"])
