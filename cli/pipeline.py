"""Compile the pipelines for a cluster, upload them to a Kubeflow Pipelines server, or run them locally.

    export KFP_ENDPOINT=https://kubeflow.example.com/pipeline KFP_NAMESPACE=mtorl
    export KFP_EXISTING_TOKEN=...
    mtorl pipeline upload manifests/pipelines/compiled/*.yaml
    mtorl pipeline schedule manifests/pipelines/schedule.yaml
    mtorl pipeline run train --volume volume -p source=log.csv -p dataset=my-log.yaml

The `kfp` command reads the same endpoint, namespace and token. Use it to start and show runs on the server:
docs/pipelines.md.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes, stop

app = CommandGroup(__doc__ or "")


@app.callback()
def options(
    context: typer.Context,
    endpoint: Annotated[str, typer.Option(envvar="KFP_ENDPOINT", help="Address of the KFP server.")] = "",
    namespace: Annotated[
        str, typer.Option(envvar="KFP_NAMESPACE", help="Namespace (Kubeflow profile) of the runs.")
    ] = "",
    existing_token: Annotated[
        str, typer.Option(envvar="KFP_EXISTING_TOKEN", help="Bearer token; safer in the environment.")
    ] = "",
) -> None:
    """Declare the options that come before a command."""
    context.obj = (endpoint, namespace, existing_token)


@app.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("manifests/pipelines/compiled"),
) -> None:
    """Write the pipelines as YAML for a Kubeflow Pipelines server.

        MTORL_IMAGE=registry.example.org/mtorl/train:TAG mtorl pipeline compile --out pipelines
        MTORL_GPUS=0 mtorl pipeline compile --out pipelines     for a cluster without GPUs

    The YAML contains the image ($MTORL_IMAGE), and the GPUs that a training uses: $MTORL_GPUS on each of $MTORL_NODES
    nodes. Both numbers default to 1.
    """
    from pipelines.cluster.compile import compile_all

    for path in compile_all(out):
        typer.echo(path)


@app.command()
def upload(
    context: typer.Context, files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Compiled pipelines.")]
) -> None:
    """Upload compiled pipelines to the server.

        mtorl pipeline upload manifests/pipelines/compiled/*.yaml

    The name of a version is derived from its content, so uploading the same file again creates no new version.
    """
    from pipelines.cluster import kfp_server

    with exit_codes(kfp_server.ServerError):
        # Check all files first, so that an invalid file does not leave the upload half done.
        for file in files:
            kfp_server.pipeline_name(file)
        client = kfp_server.connect(*context.obj)
        for file in files:
            uploaded = kfp_server.upload(client, file)
            typer.echo(f"{uploaded.version}: {'uploaded' if uploaded.new else 'already there'}")


@app.command()
def schedule(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Recurring runs, as in manifests/pipelines/schedule.yaml.")],
) -> None:
    """Create, replace and remove recurring runs on a server, so that they match a file.

        mtorl pipeline schedule manifests/pipelines/schedule.yaml

    If an entry of the file has changed, its recurring run is replaced. A recurring run that is no longer in the file is
    removed if this command created it. Active runs continue. You can repeat the command at any time, for example after
    an interruption.
    """
    from pipelines.cluster.kfp_server import ServerError, connect
    from pipelines.cluster.schedule import Schedule, apply

    with exit_codes(ServerError):
        wanted = Schedule.load(file)
        for name, change in apply(connect(*context.obj), wanted).items():
            typer.echo(f"{name}: {change}")


@app.command()
def run(
    pipeline: Annotated[str, typer.Argument(help="bootstrap, train, retrain or monitor.")],
    volume: Annotated[Path, typer.Option(help="Local folder used as the data volume.")],
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter; may be repeated.")
    ] = None,
) -> None:
    """Run a pipeline locally, without a server.

        mtorl pipeline run bootstrap --volume volume -p dataset=simulator -p simulate=true -p users=800 -p epochs=2
        mtorl pipeline run train --volume volume -p source=log.csv -p dataset=my-log.yaml

    Results of earlier runs with the same log and settings are reused. Exit code 1: the run failed. 2: the input of a
    step is invalid.
    """
    from cli.progress_bars import ProgressBars
    from pipelines.local import PipelineError
    from pipelines.on_volume import run_on
    from serving.versions.publishing import needs_experiment

    values = _values(parameters or [])
    # Files on the volume, such as logs and models, must not be readable for users outside its group.
    os.umask(0o027)
    with exit_codes(PipelineError), ProgressBars() as bars:
        ended = run_on(volume, pipeline, values, bars.on_step)
    if ended.cached:
        typer.echo(f"reused from earlier runs, with unchanged inputs: {', '.join(ended.cached)}")
    for step in ("gate", "publish-first"):
        if step in ended.steps:
            typer.echo(f"{step}: {ended.steps[step].values['Output']}")
    if (publish := ended.steps.get("publish")) and (words := needs_experiment(Path(publish.values["Output"]))):
        typer.echo(words)
    typer.echo(f"outputs and log: {ended.folder}")


def _values(parameters: list[str]) -> dict[str, str]:
    values = {}
    for parameter in parameters:
        name, is_there, value = parameter.partition("=")
        if not is_there:
            stop(f"-p {parameter}: expected NAME=VALUE", 2)
        values[name] = value
    return values
