"""`mtorl pipeline`: the pipelines, compiled for a cluster and on a Kubeflow Pipelines server.

    export KFP_ENDPOINT=https://kubeflow.example.com/pipeline KFP_NAMESPACE=mtorl
    export KFP_EXISTING_TOKEN=...
    mtorl pipeline upload manifests/pipelines/production/*.yaml
    mtorl pipeline run mtorl-train -p source=/mnt/mtorl/touchpoints.parquet -p dataset=/mnt/mtorl/dataset.yaml --wait
    mtorl pipeline status
    mtorl pipeline schedule manifests/pipelines/schedules/production.yaml

Endpoint, namespace and token are those of the KFP SDK: where they are not given, it looks for them in its own
environment variables, in a kubeconfig, or in the pod that it runs in. docs/pipelines.md shows it all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes, stop

if TYPE_CHECKING:
    from pipelines.run_state import RunState
    from pipelines.server import Server

app = CommandGroup(__doc__ or "")

_POLL_SECONDS = 5


@app.callback()
def options(
    context: typer.Context,
    endpoint: Annotated[str, typer.Option(envvar="KFP_ENDPOINT", help="Address of the KFP server.")] = "",
    namespace: Annotated[
        str, typer.Option(envvar="KFP_NAMESPACE", help="Namespace (Kubeflow profile) of the runs.")
    ] = "",
    existing_token: Annotated[
        str, typer.Option(envvar="KFP_EXISTING_TOKEN", help="Bearer token; better in the environment than here.")
    ] = "",
) -> None:
    """Take the options that stand before a command."""
    context.obj = (endpoint, namespace, existing_token)


@app.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("manifests/pipelines"),
    objects: Annotated[
        bool,
        typer.Option("--objects", help="Write them as objects of Kubernetes too, for KFP's Kubernetes-native mode."),
    ] = False,
) -> None:
    """Write the pipelines as YAML that a Kubeflow Pipelines cluster takes.

        MTORL_IMAGE=registry.example.org/mtorl/train:TAG mtorl pipeline compile --out pipelines
        mtorl pipeline compile --out pipelines --objects && kubectl -n mtorl apply -f pipelines/production/objects

    The image is compiled in: $MTORL_IMAGE.
    """
    from pipelines.compile import compile_all

    for path in compile_all(out, objects):
        typer.echo(path)


@app.command()
def upload(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Compiled pipelines.")],
) -> None:
    """Upload compiled pipelines. What is there already stays: a version is named after its content.

    mtorl pipeline upload manifests/pipelines/production/*.yaml
    """
    from pipelines.server import pipeline_name

    with _errors():
        for file in files:  # before a server is asked
            pipeline_name(file)
        server = _server(context)
        for file in files:
            uploaded = server.upload(file)
            typer.echo(f"{uploaded.version}: {'uploaded' if uploaded.new else 'was there'}")


@app.command()
def run(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of an uploaded pipeline, or a file to upload first.")],
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="One for each parameter.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it ends, and say each change of a step.")] = False,
    volume: Annotated[
        Path | None, typer.Option(help="Run it on this machine, on this folder, without a server.")
    ] = None,
) -> None:
    """Start a run of the newest version of a pipeline, or run it here.

        mtorl pipeline run mtorl-train -p source=/mnt/mtorl/touchpoints.parquet -p dataset=/mnt/mtorl/dataset.yaml
        mtorl pipeline run mtorl-train -p source=simulator -p dataset=simulator -p users=600 -p epochs=2 --wait
        mtorl pipeline run train --volume volume -p source=log.csv -p dataset=my-log.yaml

    Exit code 1 with --wait, or with --volume, if the run fails; 2 if a step can't use what it was given. With --volume,
    what an earlier run made of the same log and settings is used again.
    """
    if volume is not None:
        return _run_here(volume, pipeline, _values(parameters or []))
    with _errors():
        server = _server(context)
        values = _values(parameters or [])
        uploaded = server.upload(Path(pipeline)) if Path(pipeline).suffix == ".yaml" else server.newest(pipeline)
        run_id = server.start(uploaded, values)
        typer.echo(f"run {run_id} of {uploaded.version}")
        if wait:
            _wait(server, run_id)


@app.command()
def status(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="Id of a run. None: the newest runs.")] = "",
    count: Annotated[int, typer.Option(help="Of the newest runs.", min=1, max=100)] = 10,
) -> None:
    """Say how far a run is, step by step. Why a step waits or has failed is said as far as it can be found out.

        mtorl pipeline status
        mtorl pipeline status 6d3f2c1e-5d0b-4c39-9d64-2f1f1e0b7a55

    Why a pod waits for a node is in Kubernetes alone, so it takes a kubeconfig that may list pods.
    """
    from cli.pipeline_tables import print_run, print_runs

    with _errors():
        server = _server(context)
        if run_id:
            print_run(server.look(run_id))
        else:
            print_runs(server.runs(count))


@app.command()
def logs(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run.")],
    step: Annotated[str, typer.Argument(metavar="[STEP]", help="Whose log. None: of all steps that have failed.")] = "",
    tail: Annotated[int, typer.Option(help="So many lines of each, from the end. 0: all.", min=0)] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the step ends.")] = False,
) -> None:
    """Print what a step of a run has printed.

        mtorl pipeline logs 6d3f2c1e-5d0b-4c39-9d64-2f1f1e0b7a55 --tail 50
        mtorl pipeline logs 6d3f2c1e-5d0b-4c39-9d64-2f1f1e0b7a55 train-challenger --follow

    Of a step that was tried several times it is the last attempt.
    """
    from pipelines.step_logs import last_lines
    from pipelines.step_logs import logs as logs_of

    if follow and not step:
        stop("--follow: of which step? mtorl pipeline logs RUN STEP --follow", 2)
    with _errors():
        server = _server(context)
        if follow:
            return _follow(server, run_id, step, tail)
        found = logs_of(server, run_id, step)
        for log in found:
            if not step:
                typer.echo(f"==> {log.step or 'a step that does not say its name'} <==")
            typer.echo((last_lines(log.text, tail) or "nothing printed").rstrip("\n"))
        if not found:
            typer.echo("no step has failed")


@app.command()
def schedule(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What recurs, such as manifests/pipelines/schedules/production.yaml.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
) -> None:
    """Make the recurring runs of a server what a file says. Repeating it changes nothing.

        mtorl pipeline schedule manifests/pipelines/schedules/production.yaml --dry-run
        mtorl pipeline schedule manifests/pipelines/schedules/production.yaml

    What has changed in the file is replaced; what is gone from it is removed, if this command has made it. Runs that
    are under way go on. If it is cut off, call it again.
    """
    from cli.pipeline_tables import print_changes
    from pipelines.recurring import apply, plan
    from pipelines.schedule import Schedule

    def wait(seconds: float) -> None:
        typer.echo(f"something is due about now: waiting {seconds:.0f} s, so that it is neither missed nor run twice")
        time.sleep(seconds)

    with _errors():
        wanted = Schedule.load(file)
        server = _server(context)
        print_changes(plan(server, wanted) if dry_run else apply(server, wanted, wait), wanted.time_zone)


def _follow(server: Server, run_id: str, step: str, tail: int) -> None:
    """Print what a step prints, until it ends. Another attempt has a log of its own, printed from its start."""
    from pipelines.kfp_errors import patiently
    from pipelines.step_logs import last_lines
    from pipelines.step_logs import logs as logs_of

    seen = ""
    while True:
        (log,) = patiently(lambda: logs_of(server, run_id, step), _note, _POLL_SECONDS)
        again = "" if log.text.startswith(seen) else "\n==> another attempt <==\n"
        more = log.text.removeprefix(seen) if seen else last_lines(log.text, tail)
        typer.echo(f"{again}{more}" if more else "", nl=False)
        seen = log.text or seen
        if log.ended:
            return None if seen.endswith("\n") else typer.echo("" if seen else "nothing printed")
        time.sleep(_POLL_SECONDS)


def _run_here(volume: Path, pipeline: str, values: dict[str, str]) -> None:
    from cli.progress_bars import ProgressBars
    from pipelines.local import InputError, PipelineError
    from pipelines.on_volume import run_on
    from pipelines.server import RequestError

    with exit_codes(unusable=(RequestError, InputError, OSError), failed=(PipelineError,)), ProgressBars() as bars:
        ended = run_on(volume, pipeline, values, bars.on_step)
    if ended.cached:
        typer.echo(f"from earlier runs, since nothing they depend on has changed: {', '.join(ended.cached)}")
    if "gate" in ended.steps:
        typer.echo(f"gate: {ended.steps['gate'].values['Output']}")
    typer.echo(f"outputs and log: {ended.folder}")


def _server(context: typer.Context) -> Server:
    from pipelines.server import Server

    return Server.connect(*context.obj)


def _values(parameters: list[str]) -> dict[str, str]:
    values = {}
    for parameter in parameters:
        name, is_there, value = parameter.partition("=")
        if not is_there:
            stop(f"-p {parameter}: expected NAME=VALUE", 2)
        values[name] = value
    return values


def _note(text: str) -> None:
    """Say what is no result, so not to standard output."""
    typer.echo(text, err=True)


def _wait(server: Server, run_id: str) -> None:
    from pipelines.kfp_errors import ServerError, patiently

    seen: dict[str, tuple[str, str]] = {}
    while True:
        try:
            state = patiently(lambda: server.look(run_id), _note, _POLL_SECONDS)
        except ServerError as error:
            stop(f"{error}; the run goes on without us: mtorl pipeline status {run_id}", 1)
        for line in _changes(state, seen):
            typer.echo(line)
        if state.ended:
            break
        time.sleep(_POLL_SECONDS)
    typer.echo(f"run {run_id}: {state.state}")
    if state.state != "SUCCEEDED":
        raise typer.Exit(1)


def _changes(state: RunState, seen: dict[str, tuple[str, str]]) -> Iterator[str]:
    """A line for each step that is not as it was seen before."""
    for step in state.steps:
        now = (step.state, step.reason)
        if seen.get(step.name) != now:
            seen[step.name] = now
            yield f"{step.name:20} {step.state}" + (f"  {step.reason}" if step.reason else "")


@contextmanager
def _errors() -> Iterator[None]:
    from pipelines.server import RequestError, ServerError

    with exit_codes(unusable=(RequestError,), failed=(ServerError,)):
        yield
