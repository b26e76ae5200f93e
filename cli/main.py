"""`mtorl`: the loop on a laptop, the local servers, and the jobs that a cluster runs.

    mtorl run                                  the whole loop on the simulator
    mtorl run --data log.csv.gz --dataset kuairand-sequence
    mtorl serve --run runs/latest              the servers of that run
    mtorl data init|validate|describe|build    describe, check, look at, prepare a log
    mtorl data simulate|compact|forget         make one; compact a lake; take users out
    mtorl train | evaluate                     a model by itself; a finished one on users that it never saw
    mtorl search | katib                       the settings of training, here or by Katib on a cluster
    mtorl benchmark paper                      MTORL, its ablations and other methods
    mtorl pipeline compile                     pipelines as YAML for a cluster
    mtorl pipeline upload|schedule             them, and recurring runs, on a Kubeflow Pipelines server
    mtorl pipeline run                         one of them on this machine
    mtorl model list|show|rm|versions          the registry: what each version was trained on; what a cluster serves
    mtorl materialize                          what the CronJob of manifests/ calls
    mtorl feed                                 the decision log's events into Feast's online store
    mtorl ledger wait|agree                    before a further router starts; after the ledger was lost
    mtorl arm check URL                        whether an endpoint of your own can be an arm
    mtorl experiment init|check|plan           its file; who gets what; how large it must be, what exploring costs
    mtorl experiment run|move|status|verdict   through its stages with a page, by hand; what is known of it
    mtorl budget plan                          what a budget would earn, and how to split it
    mtorl monitor check|status|export|accept   has anything moved, does it do harm, what does it cost

`mtorl COMMAND -h` says more. `mtorl --install-completion` lets the shell complete commands, options and data sets.
"""

import os
from typing import Annotated

import typer

from cli import arm, budget, cluster, data, ledger, model, monitor, pipeline, run, search, versions
from cli.commands import CommandGroup
from cli.experiment.app import app as experiment
from mtorl import __version__

# Each command imports what it needs: `mtorl --help` must not wait ten seconds for torch and Feast.
os.environ.setdefault("DO_NOT_TRACK", "1")
# Arrow's usual allocator gives memory back at once, and takes it anew for each piece of a large table.
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
    """Take the options that stand before a command."""


def main() -> None:
    """Console entry point."""
    app()


if __name__ == "__main__":
    main()
