"""What people see of an experiment: in the terminal, as a page to keep or to send, and as a page that is served."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.endings import HARM, HELD, exit_codes, naming_the_manual, stop
from cli.experiment import JsonOption, input_errors, print_json
from cli.experiment_log import ByOption
from cli.experiment_operator import app
from cli.experiment_stages import StateOption

if TYPE_CHECKING:
    from monitoring.experiments.document import View

__all__ = ["app"]

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The experiment files.")]
OwnDataset = Annotated[str | None, typer.Option(help="The data set's description. None: that of mtorl serve.")]


@app.command()
def watch(
    files: FilesArgument,
    state: StateOption = None,
    dataset: OwnDataset = None,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show in the terminal what is known now: what to do, stage, users, effect, guardrails, money, what comes next.

        mtorl experiment watch first-day.yaml
        mtorl experiment watch first-day.yaml --once --json > now.json
        mtorl experiment watch *.yaml                    of each, what to do, its stage and what comes next

    It changes nothing; `mtorl experiment run` moves the stages. Ctrl-C ends it. With --json it looks once; of several
    files, it prints a list. Exit codes of --once: 4 it is held, and a person must do something first (users are not
    split as configured, a challenger fails or is slow, something can't be read); 5 it was rolled back, or is switched
    off; else 0. Of several files, the highest.
    """
    with _input_errors():
        from rich.console import Console
        from rich.live import Live

        from cli.experiment_screen import screen

        views = _views(files, state, dataset, ())
        if once or as_json:
            if as_json:
                print_json(views[0] if len(views) == 1 else views)
            else:
                Console().print(screen(views), highlight=False)
            _end(views)
        console = Console()
        try:
            with Live(screen(views), console=console, screen=console.is_terminal, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    views = _views(files, state, dataset, ())
                    live.update(screen(views), refresh=True)
        except KeyboardInterrupt:  # the usual way to end it
            console.print(screen(views), highlight=False)


@app.command()
def report(
    files: FilesArgument,
    out: Annotated[Path | None, typer.Option(help="The page. None: FILE with .html for its suffix.")] = None,
    state: StateOption = None,
    dataset: OwnDataset = None,
    by: ByOption = None,
) -> None:
    """Write all that is known into one HTML file, to keep or to send: it loads nothing, and runs no script.

        mtorl experiment report first-day.yaml                   first-day.html
        mtorl experiment report first-day.yaml --by device       with the effect by segment
        mtorl experiment report *.yaml --out experiments.html    all on one page

    The page has names, figures and reasons in it, and neither salt nor users.
    """
    with _input_errors():
        from monitoring.experiments.page import page
        from mtorl.runtime.files import replacing

        where = out or (files[0].with_suffix(".html") if len(files) == 1 else None)
        if where is None:
            stop("--out: name the page of several experiments", 2)
        text = page(_views(files, state, dataset, by or ()))
        with replacing(where) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    typer.echo(f"report: {where}")


@app.command()
def web(
    files: FilesArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Anybody who reaches it can read all of it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8088,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks at the log.")] = 30.0,
    state: StateOption = None,
    dataset: OwnDataset = None,
    by: ByOption = None,
) -> None:
    """Serve the same page on this machine, and keep it fresh, until Ctrl-C. It is read only.

        mtorl experiment web first-day.yaml                      http://127.0.0.1:8088/
        curl -s http://127.0.0.1:8088/metrics                    Prometheus gauges
        curl -s http://127.0.0.1:8088/experiments.json           what the page is made from

    It changes nothing; `mtorl experiment run` moves the stages.
    """
    with _input_errors():
        from monitoring.experiments.web import Watcher, serving

        by = by or []
        watcher = Watcher(lambda: _views(files, state, dataset, by), every)
        try:
            with watcher, serving(watcher, host, port) as url:
                typer.echo(f"page  {url}   stop with Ctrl-C")
                while True:
                    time.sleep(3600)
        except KeyboardInterrupt:  # the usual way to end it
            typer.echo("stopped")


def _views(files: Sequence[Path], state: Path | None, dataset: str | None, by: Sequence[str]) -> list[View]:
    from pipelines.experiments.folder import ExperimentFolder
    from pipelines.experiments.look import view_of

    if state is not None and len(files) > 1:
        stop("--state is that of one experiment: name one file", 2)
    return [view_of(ExperimentFolder.of(file, state, dataset), time.time(), by) for file in files]


def _end(views: Sequence[View]) -> None:
    """End with the exit code of what was seen."""
    raise typer.Exit(max({"held": HELD, "harm": HARM}.get(view["advice"]["condition"], 0) for view in views))


@contextmanager
def _input_errors() -> Iterator[None]:
    from mtorl.experiment.history import HistoryError

    with exit_codes(unusable=(HistoryError,)), input_errors(), naming_the_manual():
        yield
