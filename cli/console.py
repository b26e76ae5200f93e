"""What a person sees: one line per step while the loop runs, and a short table at its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

NAMES = {
    "ingest": "read and validate the log",
    "build-features": "Feast features and causal windows",
    "fit-incumbent": "fit the incumbent",
    "train-challenger": "train MTORL",
    "evaluate": "evaluate offline",
    "gate": "gate",
    "package": "package for TorchServe",
    "publish": "publish to the registry",
    "materialise": "materialise online features",
    "start-serving": "start TorchServe and the router",
    "traffic-live": "A/B traffic",
    "traffic-shifted": "traffic with a shifted context",
    "verdict-clean": "verdict",
    "drift-clean": "drift, served window",
    "drift-shifted": "drift, shifted window",
    "true-lift": "true difference from the simulator",
    "report": "report",
}


class Steps:
    """Progress bars; on a stream that is not a terminal, one plain line for each finished step."""

    def __init__(self) -> None:
        # This very stream: while a pipeline runs, sys.stderr is the runner's log.
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_step(self, step: str, done: float, total: float, note: str) -> None:
        """Show that a step has started (total 0), advanced, or finished (done == total)."""
        name = NAMES.get(step)
        if name is None:
            return
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(name, total=None, note="")
        task = self._tasks[step]
        if total:
            before = self._progress.tasks[self._progress.task_ids.index(task)]
            finished = done >= total
            self._progress.update(task, total=total, completed=done, note=note or before.fields["note"])
            if finished and not self._console.is_terminal:
                elapsed = before.elapsed or 0.0
                self._console.print(f"{name:<36} {elapsed:6.1f} s  {note or before.fields['note']}".rstrip())


def print_summary(run: Path, root: Path) -> None:
    """Print the figures that people look for first, and where the report is."""
    summary = json.loads((run / "summary.json").read_text())
    table = Table(
        title=f"{summary['dataset']}: {summary['rows']:,} touchpoints of {summary['users']:,} users",
        title_justify="left",
    )
    table.add_column("what")
    table.add_column("result")
    for name, value in _lines(summary):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(
        f"report: {root / 'latest' / 'report.html'}   figures: {root / 'latest' / 'summary.json'}", soft_wrap=True
    )


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    offline, gate, serving = summary["offline"], summary["gate"], summary["serving"]
    experiment, drift = summary["experiment"], summary["drift"]
    low, high = experiment["lift_ci"]
    lines = [
        ("reward AUC, unseen users", _with_interval(offline, "reward_auc")),
        ("channel accuracy, unseen users", _with_interval(offline, "action_accuracy")),
        ("gate", f"{gate['decision']}: {gate['reason']}"),
        ("decisions", f"{serving['decisions']:,}, {serving['errors']} errors, {serving['fallbacks']} fallbacks"),
        ("latency", f"p50 {serving['p50_ms']:.1f} ms, p99 {serving['p99_ms']:.1f} ms"),
        *(
            (f"budget, {arm}", f"{found['spent']:,.2f} of {found['limit']:,.2f} spent, {found['overspent']:,.2f} over")
            for arm, found in summary["budget"].items()
        ),
        ("lift, gain per decision", f"{experiment['lift']:+.4f} [{low:+.4f}, {high:+.4f}]"),
        ("true lift (simulator)", f"{experiment['true_lift']:+.4f}")
        if experiment["true_lift"] is not None
        else ("outcomes", summary["outcomes"]),
        ("verdict", f"{experiment['verdict']}: {experiment['reason']}"),
        ("drift alerts", f"{drift['clean_alerts']} served window, {drift['shifted_alerts']} shifted window"),
        ("time", f"{summary['seconds']:.0f} s"),
    ]
    if summary["quarantined"]["rows"]:
        lines.insert(0, ("quarantined rows", f"{summary['quarantined']['rows']:,}"))
    return lines


def _with_interval(figures: dict[str, Any], name: str) -> str:
    if figures.get(name) is None:
        return "not defined"
    low, high = figures[f"{name}_ci"]
    return f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"
