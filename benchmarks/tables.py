"""Writes the pages docs/tables/*.md, which contain tables of measurements, from the files in benchmarks/results.

These commands write the results; the last one writes the tables:

    python benchmarks/loop.py [--data FILE --dataset NAME] --json benchmarks/results/loop/NAME.json    # each data set
    python benchmarks/train.py [--data FILE --dataset NAME] --json benchmarks/results/train/NAME.json  # each data set
    python benchmarks/features.py --json benchmarks/results/features.json
    python benchmarks/serving.py --run runs/latest --json benchmarks/results/serving.json
    python benchmarks/against.py OLD --json benchmarks/results/against.json    # OLD: folder of an older checkout
    python benchmarks/soak.py --run runs/latest --seconds 1800 --json benchmarks/results/soak.json
    python benchmarks/experiments.py --json benchmarks/results/experiments.json
    python benchmarks/monitoring.py --json benchmarks/results/monitoring.json
    python benchmarks/regret.py --json benchmarks/results/regret.json
    python benchmarks/budget_plan.py --json benchmarks/results/budget_plan.json
    python benchmarks/generations.py --json benchmarks/results/generations.json
    python benchmarks/scale.py --json benchmarks/results/scale.json
    python benchmarks/tables.py
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from _environment import ROOT

from benchmarks.against import against_table
from benchmarks.budget_plan import budget_plan_table
from benchmarks.experiment_runs.table import experiment_tables
from benchmarks.feature_layer.table import feature_tables
from benchmarks.generations import generations_table
from benchmarks.loop import loop_table
from benchmarks.monitoring_runs.table import monitoring_tables
from benchmarks.regret import regret_tables
from benchmarks.request_path.tables import serving_tables
from benchmarks.scale_runs.table import scale_tables
from benchmarks.soak import soak_table
from benchmarks.train import train_table

RESULTS = ROOT / "benchmarks" / "results"
TABLES = ROOT / "docs" / "tables"


class Page(NamedTuple):
    """A page in docs/tables/, and the function that formats its tables."""

    title: str
    explained_in: str
    """Page of docs/ that explains the measurement."""
    tables: Callable[[Any], str]
    """Function that formats figures as Markdown. It gets the content of results/NAME.json, or a list with the content
    of each file in results/NAME/, one for each data set."""


PAGES = {
    "loop": Page("The whole loop", "summary.md", loop_table),
    "train": Page("What training costs", "training.md", train_table),
    "features": Page("The feature layer", "features.md", feature_tables),
    "serving": Page("The request path", "serving.md", serving_tables),
    "against": Page("The request path, compared with an older one", "serving.md", against_table),
    "soak": Page("Everything at once", "serving.md", soak_table),
    "experiments": Page("How often a verdict is wrong", "verdict.md", experiment_tables),
    "monitoring": Page("How often the monitor is wrong, and how soon it is right", "monitoring.md", monitoring_tables),
    "regret": Page("What a policy earns with a budget", "evaluation.md", regret_tables),
    "budget_plan": Page("What a plan of a budget is worth", "budget-plan.md", budget_plan_table),
    "generations": Page("Learning from own decisions, night after night", "evaluation.md", generations_table),
    "scale": Page("What each cost grows with", "capacity.md", scale_tables),
}


def main() -> None:
    for name, text in pages().items():
        (TABLES / f"{name}.md").write_text(text)


def pages() -> dict[str, str]:
    return {name: _text(name, page) for name, page in PAGES.items()}


def _text(name: str, page: Page) -> str:
    one_file = RESULTS / f"{name}.json"
    if one_file.exists():
        source, figures = one_file, json.loads(one_file.read_text())
    else:
        source = RESULTS / name
        figures = [json.loads(path.read_text()) for path in sorted(source.glob("*.json"))]
    return (
        f"# {page.title}\n\n"
        f"Written by `benchmarks/tables.py` from `{source.relative_to(ROOT)}`; do not edit. "
        f"What is measured, and how: [{page.explained_in}](../{page.explained_in}).\n\n{page.tables(figures)}"
    )


if __name__ == "__main__":
    main()
