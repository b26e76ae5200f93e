"""The figures of a comparison as Markdown: docs/results.md.

    text = report(results, machine)      # results: `jobs.collect`

Folds test on different users, so their mean has a smaller interval than one fold alone: the standard errors, taken from
the folds' own intervals, add up in squares. Seeds of the time protocol test on the same rows, so the mean interval is
kept. Differences are paired: MTORL less LightGBM on the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtorl.comparison import tables
from mtorl.comparison.jobs import ABOUT, AUTHORS
from mtorl.comparison.tables import Tasks

Results = Mapping[str, Any]

_INTRODUCTION = """No method has seen the outcomes of the rows that a figure is about. *user*: the test users are
neither training nor validation users, and differ from fold to fold. *time*: the test is the end of the log, the same
for each seed. `±` is the standard deviation over folds or seeds, `[a, b]` a 95 % interval from resampling users (folds
test on different users but share most of their training users). Methods with a dash predict no reward. MTORL's settings
were chosen on validation users of the pipeline's split and partly by looking at test users of other folds than these;
the end of the log was looked at as well. All other methods have fixed settings and stop on validation rows. What the
figures cannot tell: `docs/limitations.md`. What the methods are: `docs/model.md` and `mtorl/baselines/`.""".replace(
    "\n", " "
)
_CALIBRATION = """What limits MTORL's calibration. Noise is the error that a perfectly calibrated head would show on as
many independent rows, with labels drawn from its own probabilities: the mean of a fold, and what one draw in forty
exceeds. The last column sets the overall rate of the reward head to that of the test, which cannot be known in
advance.""".replace("\n", " ")


def report(results: Results, machine: Mapping[str, str]) -> str:
    """All tables."""
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    parts = [
        "# Results",
        f"Made by `mtorl benchmark paper` ({facts}); do not edit. {_INTRODUCTION}",
        f"All trainings together: {_cpu_minutes(results):.0f} CPU minutes, one thread each.",
    ]
    for dataset, figures in results.items():
        parts += [f"## {dataset}", _about(figures[ABOUT])]
        for protocol in ("user", "time"):
            if protocol in figures:
                parts += _protocol(protocol, figures[protocol])
        if authors_rows := [row for row in figures.get(AUTHORS, ()) if row]:
            parts += ["### The authors' protocol (leaky, not a goal)", tables.authors_table(authors_rows, dataset)]
    return "\n\n".join(parts) + "\n"


def _protocol(protocol: str, tasks: Tasks) -> list[str]:
    disjoint = protocol == "user"
    rows, users = (np.mean([task[name] for task in tasks]) for name in ("rows", "users"))
    repeats = f"{len(tasks)} {'fold' if disjoint else 'seed'}{'s' * (len(tasks) > 1)}"
    out = [
        f"### Protocol `{protocol}`",
        f"{repeats}, on average {rows:,.0f} test rows of {users:,.0f} users.",
        tables.method_table(tasks),
        "Differences on the same rows and resamples:",
        tables.paired_table(tasks, disjoint),
    ]
    if not disjoint:  # what policies are worth, whole users say
        return out
    if tasks[0]["budget"]:
        out += ["Share of all gain that a share of the spend buys:", tables.budget_table(tasks)]
    out += ["Value of channel policies, always exposing, on the 37.5 % of rows with the highest expected gain:"]
    return [*out, tables.policy_value_table(tasks), _CALIBRATION, tables.calibration_table(tasks)]


def _about(dataset: Mapping[str, Any]) -> str:
    return f"Is the logged channel independent of what was known before? {dataset['independence']['verdict']}"


def _cpu_minutes(results: Results) -> float:
    tasks = [
        task for figures in results.values() for protocol in ("user", "time") for task in figures.get(protocol, ())
    ]
    return float(sum(cost["seconds"] for task in tasks for cost in task["costs"].values())) / 60
