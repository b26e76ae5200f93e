"""The tables of `mtorl pipeline`: runs, the steps of one, and what recurs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pipelines.recurring import Change
    from pipelines.run_state import RunState


def print_runs(runs: list[RunState]) -> None:
    """Print the newest runs on a pipeline server, a line each."""
    table = Table()
    for name in ("run", "name", "state", "started (UTC)"):
        table.add_column(name, no_wrap=True)
    for run in runs:
        table.add_row(run.run_id, run.name, run.state, f"{run.created:%Y-%m-%d %H:%M}")
    console = Console()
    Console(width=max(console.width, 120)).print(table)  # whole ids, to copy


def print_run(run: RunState) -> None:
    """Print a run step by step, and below it why steps wait or have failed."""
    typer.echo(f"{run.name}: {run.state}")
    table = Table()
    table.add_column("step", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for step in run.steps:
        table.add_row(step.name, step.state, "" if step.seconds is None else f"{step.seconds:.0f}")
    Console().print(table)
    for step in run.steps:
        if step.reason:
            typer.echo(f"{step.name}: {step.reason}")
    if run.state == "FAILED" and not any(step.state == "FAILED" for step in run.steps):
        # It can't read a workflow that Argo has compressed, as after many attempts of many steps.
        typer.echo("the server does not know which step has failed; the volume does: runs/PIPELINE.json, newest run")


def print_changes(changes: list[Change], time_zone: str) -> None:
    """Print what has happened to each recurring run, or would, and when it runs next."""
    table = Table()
    for name in ("recurring run", "what", f"next ({time_zone})"):
        table.add_column(name, no_wrap=True)
    for change in changes:
        table.add_row(change.name, change.what, f"{change.next_run:%Y-%m-%d %H:%M}" if change.next_run else "-")
    console = Console()
    Console(width=max(console.width, 120)).print(table)  # whole names
