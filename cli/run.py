"""`mtorl run` and `mtorl serve`: the whole loop, and the servers of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import BadRows, Collected, CommandGroup, Dataset, Epochs, Seed, Users
from cli.endings import exit_codes, naming_the_manual, stop

app = CommandGroup()


@app.command()
def run(
    data: Annotated[
        str, typer.Option(help="Raw exposure log (CSV, CSV.gz or Parquet). Empty: the built-in simulator.")
    ] = "",
    dataset: Dataset = "simulator",
    collected: Collected = "",
    bad_rows: BadRows = "fail",
    users: Users = 0,
    epochs: Epochs = 12,
    seed: Seed = 7,
    rounds: Annotated[int, typer.Option(help="Online opportunities per held-out user; on average for a real log.")] = 5,
    min_lift: Annotated[
        float, typer.Option(help="Lift per opportunity that the gate's lower bound must exceed.")
    ] = 0.0,
    root: Annotated[Path, typer.Option(help="Folder that runs are kept in.")] = Path("runs"),
) -> None:
    """Run the whole loop: log, features, training, gate, serving, A/B test, drift, report.

        mtorl run                                      the simulator, about two minutes
        mtorl run --users 800 --epochs 2 --rounds 3    a small one
        mtorl run --data log.csv.gz --dataset my-log.yaml --bad-rows quarantine

    Everything that it makes lies in a folder of its own; runs/latest points to the last one. Open
    runs/latest/report.html, or read runs/latest/summary.json.
    """
    from cli.progress_bars import ProgressBars
    from cli.tables import print_summary
    from pipelines.local import InputError
    from pipelines.loop.config import LoopConfig
    from pipelines.loop.run import run_loop

    with exit_codes(unusable=(ValueError,)):
        config = LoopConfig(
            data=data,
            collected=collected,
            dataset=dataset,
            bad_rows=bad_rows,
            users=users,
            seed=seed,
            epochs=epochs,
            rounds=rounds,
            min_lift=min_lift,
            root=root,
        )
    # RuntimeError: PipelineError of a step; StackError and TorchServeError of a server.
    with exit_codes(unusable=(InputError, OSError), failed=(RuntimeError,)):
        with ProgressBars() as bars:
            folder = run_loop(config, bars.on_step)
        print_summary(folder, root)


@app.command()
def serve(
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")] = Path("runs/latest"),
    experiment: Annotated[
        Path | None, typer.Option(help="An experiment file of yours, not the run's; a change is read at once.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for its ledger and decision log; by default that file without its suffix."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the router; 0 takes a free one.")] = 8080,
    models_port: Annotated[
        int, typer.Option(help="Port of the run's models, as your experiment names it; 0 takes a free one.")
    ] = 8085,
) -> None:
    """Start the servers of a run (TorchServe with both arms, router, Feast online store, ledger) until Ctrl-C.

        mtorl serve
        curl -s localhost:8080/v1/models/ads

    docs/serving-by-hand.md asks it for decisions. With an experiment of your own, an arm whose endpoint is
    http://127.0.0.1:8085 is the run's model of the arm's name; others answer where the file says, or need no server:

        mtorl serve --experiment first-day.yaml

    docs/first-day.md does that.
    """
    if not (run / "summary.json").exists():
        stop(f"{run}: no finished run there; make one with: mtorl run", 2)
    from serving.local.stack import LocalStack, Own

    own = None
    if experiment is not None:
        own = Own(
            served_file(experiment, state, run / "artifacts" / "challenger" / "dataset.yaml"),
            state or experiment.with_suffix(""),
        )
    elif state is not None:
        stop("--state is that of an experiment of yours: name its file, --experiment", 2)
    with exit_codes(failed=(RuntimeError,)):  # StackError, TorchServeError: their text holds the log's tail
        try:
            typer.echo(f"starting TorchServe (incumbent, challenger) and the router of {run.resolve().name} ...")
            ports = {"router_port": port, "models_port": models_port if own else 0}
            with LocalStack(run.resolve(), own, **ports) as stack:
                typer.echo(f"router  {stack.url}")
                if own:
                    typer.echo(f"models  {stack.torchserve.inference_url}")
                    typer.echo(f"state   {own.state}")
                typer.echo("ready   stop with Ctrl-C")
                stack.wait()
        except KeyboardInterrupt:  # the usual way to end it
            typer.echo("stopped")


def served_file(file: Path, state: Path | None, dataset: Path) -> Path:
    """What the router reads: the file itself, or, if it has a ramp or has begun, what is in force of it.

    A file with a mistake ends the command before any server starts.
    """
    from mtorl.experiment.experiment import ExperimentError
    from mtorl.experiment.history import HistoryError
    from mtorl.experiment.stage_machine import State
    from pipelines.experiments.controller import put_in_force
    from pipelines.experiments.controller import state as state_of
    from pipelines.experiments.folder import ExperimentFolder

    with exit_codes(unusable=(ExperimentError, HistoryError, OSError)), naming_the_manual():
        folder = ExperimentFolder.of(file, state, dataset)
        experiment, stands = state_of(folder)
        if experiment.ramp is None and stands == State(events=stands.events):  # people set its stage by hand
            return file
        put_in_force(folder)
        return folder.in_force
