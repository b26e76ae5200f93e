"""`mtorl`: the loop on a laptop, the local servers, and the jobs that a cluster runs.

    mtorl run                                  run the whole loop on the simulator
    mtorl run --data log.csv.gz --dataset kuairand-sequence
    mtorl serve --run runs/latest              start the servers of that run
    mtorl data init|validate|describe|build    draft a log's description; check, describe and prepare the log
    mtorl data simulate|compact|forget         write an example log; compact a lake; remove users
    mtorl train | evaluate                     train a model; evaluate one on users outside its training set
    mtorl search | katib                       search training settings, locally or with Katib
    mtorl benchmark paper                      compare MTORL with its ablations and other methods
    mtorl pipeline compile                     write the pipelines as YAML for a cluster
    mtorl pipeline upload|schedule             upload pipelines and recurring runs to a Kubeflow Pipelines server
    mtorl pipeline run                         run a pipeline locally
    mtorl model list|show|rm|versions          list, show and remove registered models; print the served versions
    mtorl materialize                          update the online store from the log
    mtorl feed                                 add the decision log's events to the online store
    mtorl ledger wait|agree                    wait for a ledger before a router starts; accept a new one after a loss
    mtorl arm check URL                        check whether an endpoint of your own can be an arm
    mtorl experiment init|check|plan           write an experiment's file, check it, and plan its size
    mtorl experiment run|move|status|verdict   run its stages, move it yourself, and see its results
    mtorl budget plan                          forecast what a budget would earn, and how to split it
    mtorl monitor check|status|export|accept   find drift and harm, and their cost

`mtorl COMMAND -h` shows details. `mtorl --install-completion` lets the shell complete commands, options and data sets.
"""

import os
from typing import Annotated

import typer

# These modules import torch and Feast inside functions. Otherwise --help would take ten seconds.
from cli import arm, budget, cluster, data, ledger, model, monitor, pipeline, run, search, versions
from cli.commands import CommandGroup
from cli.experiment.app import app as experiment
from mtorl import __version__

# Ask libraries such as Evidently not to send usage statistics.
os.environ.setdefault("DO_NOT_TRACK", "1")
# Arrow's default allocator is slow for large tables.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

app = CommandGroup(__doc__ or "", context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(run.app)
app.add_typer(data.app, name="data")
app.add_typer(model.app)
app.add_typer(search.app)
app.add_typer(model.benchmark, name="benchmark")
app.add_typer(cluster.app)
app.add_typer(arm.app, name="arm")
app.add_typer(experiment, name="experiment")
app.add_typer(versions.app, name="model")
app.add_typer(budget.app, name="budget")
app.add_typer(ledger.app, name="ledger")
app.add_typer(monitor.app, name="monitor")
app.add_typer(pipeline.app, name="pipeline")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mtorl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Declare the options that come before a command."""


def main() -> None:
    """Console entry point."""
    app()


if __name__ == "__main__":
    main()
