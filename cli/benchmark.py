"""`mtorl benchmark`: how good the model is, beside the others."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes, stop

app = CommandGroup("How good the model is, beside other methods.")


@app.command()
def paper(
    kuairand: Annotated[str, typer.Option(help="The authors' KuaiRand sample. Empty: left out.")] = "",
    criteo: Annotated[str, typer.Option(help="The authors' Criteo sample. Empty: left out.")] = "",
    root: Annotated[Path, typer.Option(help="Working folder; what is done there is not done again.")] = Path(
        "runs/paper"
    ),
    out: Annotated[Path, typer.Option(help="Folder for results.md and results.json.")] = Path("docs"),
    repeats: Annotated[int, typer.Option(help="Folds of users; of seeds at most 3.", min=1, max=5)] = 5,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    methods: Annotated[str, typer.Option(help="Some methods beside MTORL and LightGBM, by commas. Empty: all.")] = "",
    users: Annotated[int, typer.Option(help="Users to simulate, or to keep of each log. 0: 6000, or all.")] = 0,
) -> None:
    """Compare MTORL with its ablations and with other methods, on the same windows, splits and metrics.

    Less than an hour on two cores for both samples, ten minutes with --repeats 1. Stop it whenever you like: the same
    command goes on from there.

        mtorl benchmark paper --kuairand kuairand_sequence.csv.gz --criteo criteo_sequence.csv.gz

    Without a log it simulates one: a quick look at how all of it works is

        mtorl benchmark paper --users 500 --repeats 1 --methods markov,logistic --out .
    """
    from cli.progress_bars import ProgressBars
    from mtorl.comparison.methods import METHODS
    from mtorl.comparison.report import report
    from mtorl.runtime.hardware import environment
    from pipelines.paper import PaperConfig, run_paper
    from pipelines.steps import Step

    wanted = tuple(name.strip() for name in methods.split(",") if name.strip())
    if unknown := [name for name in wanted if name not in METHODS]:
        stop(f"--methods: {unknown[0]!r} is not one of {', '.join(METHODS)}", 2)
    logs = {"kuairand-sequence": kuairand, "criteo-sequence": criteo}
    logs = {name: log for name, log in logs.items() if log} or {"simulator": ""}
    config = PaperConfig(logs, root, repeats, workers, wanted, users)
    stopped = f"stopped; the same command goes on from what is in {root}"
    with exit_codes(stopped=stopped), ProgressBars() as bars:
        results = run_paper(config, partial(bars.on_step, Step("jobs", "compare the methods")))
    out.mkdir(parents=True, exist_ok=True)
    machine = environment("torch", "lightgbm")
    (out / "results.json").write_text(json.dumps({"environment": machine, "results": results}) + "\n")
    (out / "results.md").write_text(report(results, machine))
    typer.echo(f"{out / 'results.md'}  {out / 'results.json'}")
