"""The commands `mtorl run`, which runs the whole loop, and `mtorl serve`, which starts the servers of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli import messages
from cli.commands import BadRows, CommandGroup, Dataset, Epochs, Explore, OwnDecisions, Seed, Users
from cli.endings import exit_codes, stop
from mtorl.runtime.http import send_request
from serving.messages import OWN_LOG

if TYPE_CHECKING:
    from pipelines.experiments.folder import ExperimentFolder
    from pipelines.experiments.local_servers import LocalServers

Runtime = Annotated[
    Literal["torchserve", "predictor"],
    typer.Option(help="Model server: TorchServe, or KServe's own, which needs no Java."),
]

app = CommandGroup()


@app.command()
def run(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Option(help="Raw exposure log (CSV, CSV.gz or Parquet). Empty: the built-in simulator.")
    ] = "",
    dataset: Dataset = "simulator",
    own_decisions: OwnDecisions = "",
    bad_rows: BadRows = "fail",
    users: Users = 0,
    epochs: Epochs = 12,
    seed: Seed = 7,
    rounds: Annotated[
        int, typer.Option(help="Opportunities per held-out user at the last stage. Real log: the average.", min=1)
    ] = 5,
    min_lift: Annotated[
        float, typer.Option(help="Lift per opportunity that the gate's lower bound must exceed.")
    ] = 0.0,
    explore: Explore = 0.05,
    runtime: Runtime = "torchserve",
    root: Annotated[Path, typer.Option(help="Folder with all runs.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the newest run after its last finished stage.")
    ] = False,
) -> None:
    """Run the whole loop: log, features, training, gate, serving, A/B test, monitor, report.

        mtorl run                                      the simulator, about two minutes
        mtorl run --users 800 --epochs 2 --rounds 3    a small run
        mtorl run --data log.csv.gz --dataset my-log.yaml --bad-rows quarantine
        mtorl run --resume                             after an interruption, with the same settings

    Each run writes to a folder of its own, and runs/latest links to the newest. Open runs/latest/report.html, or read
    runs/latest/summary.json.
    """
    from cli.progress_bars import ProgressBars
    from cli.tables import print_summary
    from pipelines.loop.config import LoopConfig
    from pipelines.loop.run import run_loop
    from pipelines.loop.run_folder import to_resume

    settings, interrupted = {name: ctx.params[name] for name in ctx.params.keys() - {"root", "resume"}}, None
    with exit_codes():
        if resume:
            sources = {name: ctx.get_parameter_source(name) for name in settings}
            said = {name: settings[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
            interrupted, config = to_resume(root, said)
        else:
            config = LoopConfig(**settings, root=root)
    with exit_codes(RuntimeError):
        with ProgressBars() as bars:
            folder = run_loop(config, bars.on_step, interrupted)
        print_summary(folder, root)


@app.command()
def serve(
    ctx: typer.Context,
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")] = Path("runs/latest"),
    experiment: Annotated[
        list[Path] | None,
        typer.Option(help="Your experiment file, instead of the run's. Changes apply at once. May be repeated."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for ledger and decision log. Default: the first file's path without its suffix."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the router; 0 takes a free one.")] = 8080,
    models_port: Annotated[
        int, typer.Option(help="Port of the run's models, as in your experiment file; 0 takes a free one.")
    ] = 8085,
    runtime: Runtime = "torchserve",
) -> None:
    """Start the servers of a run (both arms' models, router, Feast online store, ledger) until Ctrl-C.

        mtorl serve
        curl -s localhost:8080/v1/models/ads

    docs/serving-by-hand.md shows how to request decisions. You can also serve an experiment file of your own. An arm in
    it with the endpoint http://127.0.0.1:8085 uses the run's model with the name of the arm. Other arms have their own
    endpoint, or need none:

        mtorl serve --experiment first-day.yaml

    docs/first-day.md is a walkthrough. Several experiments can share the router, its ledger and its log if they have
    different campaigns or different parts of a layer:

        mtorl serve --experiment spring.yaml --experiment autumn.yaml
    """
    if experiment is None and state is not None:
        stop("--state needs your experiment file: add --experiment FILE", 2)
    from pipelines.experiments.folder import ExperimentFolder
    from pipelines.experiments.local_servers import LocalServers, settle
    from pipelines.loop.ramp import experiment_of, port_of_models
    from pipelines.loop.run_folder import at_work, can_be_served
    from serving.local.stack import RUNTIMES, LocalStack, Own

    if not can_be_served(run):
        stop(f"{run}: there is no trained run. Use mtorl run, or mtorl run --resume after an interruption", 2)
    run = run.resolve()
    with exit_codes():
        ctx.with_resource(at_work(run, shared=True))
        if experiment:
            states = {file: file.with_suffix("") for file in experiment}
            states[experiment[0]] = state or states[experiment[0]]
        else:
            of_run = experiment_of(run)
            states, models_port = {of_run.file: of_run.state}, port_of_models(of_run)
    first, *others = states.values()
    # Promotions change the experiment files, so the files are added below.
    files: dict[str, Path] = {}
    folders = [ExperimentFolder.of(file, of_file) for file, of_file in states.items()]
    stack = LocalStack(run, Own(files, first), router_port=port, models_port=models_port, runtime=runtime)
    with exit_codes(RuntimeError):
        # Make sure that no other command serves these models, because the next lines change their files.
        stack.claim()
        for standing in settle(folders, run, first, models_port):
            typer.echo(f"promotion: {standing}")
    # Read the files after the promotions: a file whose incumbent is a promoted model is invalid before.
    files |= served_files(states, run / "artifacts" / "challenger" / "dataset.yaml")
    for other in others:
        share_log(first, other)
    with exit_codes(RuntimeError):
        try:
            typer.echo(f"starting {RUNTIMES[runtime]} (incumbent, challenger) and the router of {run.name} ...")
            with stack:
                typer.echo(f"router  {stack.url}")
                if experiment:
                    typer.echo(f"models  {stack.models.inference_url}")
                    typer.echo(f"state   {first}")
                typer.echo("ready   stop with Ctrl-C")
                for arm, words in silent_arms(stack.url).items():
                    typer.echo(f"arm {arm}: {words}: see its endpoint in the experiment file, and router.log", err=True)
                servers = LocalServers(run, stack.serving, models_port, stack.restart_models)
                stack.wait(each_second=rollbacks(folders, servers))
        except KeyboardInterrupt:
            typer.echo("stopped")


def rollbacks(folders: list[ExperimentFolder], servers: LocalServers) -> Callable[[], None]:
    """Return a function that restores the previous model on the running servers after a rollback."""
    from pipelines.experiments.local_servers import follow_rollbacks

    said: str | None = None

    def follow() -> None:
        nonlocal said
        before, said = said, follow_rollbacks(folders, servers)
        if said not in (before, None):
            typer.echo(f"a rollback waits: {said}", err=True)

    return follow


def silent_arms(router: str) -> dict[str, str]:
    """Return the router's error message for each arm that does not answer."""
    try:
        problems = json.loads(send_request(f"{router}/health/ready", seconds=10).content)["problems"]
    except (OSError, ValueError):
        return {}
    return {part: one["error"] for part, (one, *_) in problems.items() if "/" in part and one["code"] == "no-answer"}


def served_files(states: Mapping[Path, Path], dataset: Path) -> dict[str, Path]:
    """Return the experiment files that the router reads, by file name."""
    from mtorl.experiment.experiment import Experiment, ExperimentError
    from mtorl.experiment.layers import Experiments

    served = {file: served_file(file, state, dataset) for file, state in states.items()}
    with exit_codes():
        Experiments(Experiment.load(file) for file in served.values())
        found = {f"{file.stem}.yaml": in_force for file, in_force in served.items()}
        if len(found) < len(served):
            raise ExperimentError(messages.SAME_NAME(files=[*served]))
    return found


def share_log(first: Path, other: Path) -> None:
    """Link the decision log and the models of the first experiment into another state folder."""
    other.mkdir(parents=True, exist_ok=True)
    (first / "models").mkdir(parents=True, exist_ok=True)
    for name in ("router.yaml", "spool", "lake", "forgotten.json", "models"):
        link = other / name
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(first.resolve() / name, other.resolve()))
        else:
            stop(OWN_LOG(link=link), 2)


def served_file(file: Path, state: Path | None, dataset: Path | str | None) -> Path:
    """Return the file that the router reads.

    This is a copy in the state folder or, if the experiment has no ramp and no moves, the file itself.
    """
    from mtorl.experiment.stage_machine import State
    from pipelines.experiments.controller import apply_experiment
    from pipelines.experiments.controller import state as state_of
    from pipelines.experiments.folder import ExperimentFolder

    with exit_codes():
        folder = ExperimentFolder.of(file, state, dataset)
        experiment, stands = state_of(folder)
        if experiment.ramp is None and stands == State(events=stands.events):
            return file
        apply_experiment(folder)
        return folder.in_force
