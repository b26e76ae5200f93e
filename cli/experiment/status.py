"""`mtorl experiment status`: what is known now, as a table, a page or JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import JsonOption, print_json
from cli.endings import HARM, HELD, exit_codes
from cli.experiment.shared import ByOption, FilesArgument, OwnDataset, StateOption, folders


def status(
    files: FilesArgument,
    state: StateOption = None,
    dataset: OwnDataset = None,
    by: ByOption = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page: one HTML file, to keep or to send.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is known now: what to do, the stage, users, effect, guardrails, money, history, and what comes next.

        mtorl experiment status first-day.yaml
        mtorl experiment status *.yaml                            of each, what to do, its stage and what comes next
        mtorl experiment status first-day.yaml --json             the document from which table and page are made
        mtorl experiment status first-day.yaml --page first-day.html --by device

    It changes nothing, and no server has to run; `mtorl experiment run` moves the stages. The page loads nothing,
    runs no script, and has neither salt nor users in it. Of several files, --json prints a list. Exit codes: 4 it is
    held, and a person must do something first (users are not split as configured, a challenger fails or is slow,
    something can't be read); 5 it was rolled back, or is switched off; else 0. Of several files, the highest.
    """
    with exit_codes():
        from cli.experiment.table import print_experiments
        from pipelines.experiments.evidence import view_of

        views = [view_of(folder, time.time(), by or ()) for folder in folders(files, state, dataset)]
        if page is not None:
            from monitoring.experiments.page import page as page_of
            from mtorl.runtime.files import replacing

            with replacing(page) as unfinished:
                unfinished.write_text(page_of(views), encoding="utf-8")
    if as_json:
        print_json(views[0] if len(views) == 1 else views)
    else:
        print_experiments(views)
    raise typer.Exit(max({"held": HELD, "harm": HARM}.get(view["advice"]["condition"], 0) for view in views))
