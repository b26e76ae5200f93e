"""What a person sees: one line per step while something runs, a short table at its end, or why it stopped."""

from __future__ import annotations

import inspect
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import typer
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
    "validate-log": "validate the log",
    "describe-log": "describe the log",
    "feature-sources": "feature sources",
    "window-store": "causal windows",
}
_signalled = False
_QUIET = 30.0  # s between two lines about the same step, where no bar can be drawn


def stop(message: str, code: int) -> NoReturn:
    """Say why the command ends, and end it."""
    typer.echo(f"mtorl: {message}", err=True)
    raise typer.Exit(code)


def examples(text: str) -> str:
    """A help text whose indented paragraphs, commands to copy, keep their lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in paragraphs)


def keep_examples(app: typer.Typer) -> typer.Typer:
    """Treat the docstrings of an app's commands as `examples` does."""
    for command in app.registered_commands:
        if command.callback and command.callback.__doc__:
            command.help = examples(command.callback.__doc__)
    return app


def was_signalled() -> bool:
    """Whether a signal came since `stop_on_signals`: DuckDB turns the exception into one of its own."""
    return _signalled


def stop_on_signals() -> None:
    """End by an exception, which cleans up on its way out, also where a shell has Ctrl-C ignored."""
    global _signalled
    _signalled = False

    def interrupt(*_: object) -> NoReturn:
        global _signalled
        _signalled = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


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

    @contextmanager
    def step(self, step: str) -> Iterator[None]:
        """Follow a long function of this process by its `progress.report` calls; finished when the block is."""
        from mtorl.runtime import progress

        note, last_line = "", time.monotonic()

        def on_report(done: float, total: float, words: str) -> None:
            nonlocal note, last_line
            note = words or note
            # The last report of a function is not the end of the step: another function may follow.
            self.on_step(step, min(done, 0.99 * total), total, note)
            if not self._console.is_terminal and time.monotonic() - last_line > _QUIET:
                last_line = time.monotonic()
                self._console.print(f"{NAMES[step]:<36} {100 * done / max(total, 1e-9):4.0f} %   {note}".rstrip())

        self.on_step(step, 0, 0, "")
        with progress.listen(on_report):
            yield
        self.on_step(step, 1, 1, " ")  # the last note was about the way, not the end


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


def print_evaluation(found: dict[str, Any]) -> None:
    """Print an artifact's figures on a log: heads, policy value, budget curve."""
    data, compared = found["data"], found["compared"]
    left_out = f", {data['left_out_users']:,} training users left out" if data["left_out_users"] else ""
    console = Console()
    heads = Table(
        title=f"{found['artifact']['name']} on {data['rows']:,} touchpoints of {data['users']:,} users{left_out}",
        title_justify="left",
    )
    for column in ("what", *compared["metrics"], *(f"{name} less {compared['yardstick']}" for name in _others(found))):
        heads.add_column(column)
    for metric in (name for name in compared["metrics"]["model"] if not name.endswith("_ci")):
        cells = [_with_interval(rows, metric) for rows in compared["metrics"].values()]
        cells += [_with_interval(compared["differences"][name], metric, sign="+") for name in _others(found)]
        heads.add_row(metric.replace("_", " "), *cells)
    console.print(heads)
    values = Table(title="value of its policies, gain per row", title_justify="left")
    for column in ("policy", "as logged", "IPS", "SNIPS", "DR", "DR less logged", "ESS", "overlap", ""):
        values.add_column(column)
    for name, value in found["value"].items():
        dr = value["estimates"]["dr"]
        cells = [_with_interval(value["estimates"][name], "value") for name in ("ips", "snips", "dr")]
        cells.append(_with_interval(dr, "lift", sign="+"))
        rejection = f"not evaluable: {value['not_evaluable']}" if value["not_evaluable"] else ""
        trust = [f"{value['importance_weights'][name]:.2f}" for name in ("ess_share", "overlap")]
        values.add_row(name, f"{value['logged']:.4f}", *cells, *trust, rejection)
    console.print(values)
    journeys, steps = found["journeys"], len(found["journeys"]["ess_share"])
    rejection = f"; not evaluable: {journeys['not_evaluable']}" if journeys["not_evaluable"] else ""
    console.print(
        f"its decision rule over the first {steps} steps, gain per journey (self-normalised, per decision): "
        f"{_with_interval(journeys['estimates']['snpdis'], 'value')}, as logged {journeys['logged']:.4f}, "
        f"ESS {journeys['ess_share'][-1]:.2f}{rejection}",
        highlight=False,
    )
    if found["budget"]:
        curve = Table(title="share of all gain that a share of the spend buys", title_justify="left")
        rules = ("cheapest", "predicted_gain", "random", "oracle")
        for column in ("budget", *(f"{name}, gain / cost" for name in found["budget"]), *rules):
            curve.add_column(column.replace("_", " "))
        for i, row in enumerate(found["budget"]["model"]):
            cells = [_with_interval(rows[i], "mtorl", places=3) for rows in found["budget"].values()]
            others = ("-" if row[rule] is None else f"{row[rule]:.3f}" for rule in rules)
            curve.add_row(f"{100 * row['share']:g} %", *cells, *others)
        console.print(curve)


def _others(found: dict[str, Any]) -> list[str]:
    return list(found["compared"]["differences"])


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


def _with_interval(figures: dict[str, Any], name: str, sign: str = "", places: int = 3) -> str:
    if figures.get(name) is None or figures.get(f"{name}_ci") is None:
        return "not defined"
    form = f"{sign}.{places}f"
    low, high = figures[f"{name}_ci"]
    return f"{figures[name]:{form}} [{low:{form}}, {high:{form}}]"
