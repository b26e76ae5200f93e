"""`mtorl`: the loop, the local servers and the jobs that a cluster runs.

    mtorl run                                  the whole loop on the simulator
    mtorl run --data log.csv.gz --dataset kuairand-sequence
    mtorl data validate|describe|build         check, look at, prepare a log
    mtorl train | evaluate                     a model by itself; a finished one on users that it never saw
    mtorl serve --run runs/latest              the servers of that run
    mtorl benchmark paper                      MTORL beside its ablations and other methods
    mtorl compile                              pipelines as YAML for a cluster
    mtorl materialize | drift                  what the CronJobs of manifests/ call
    mtorl feed                                 the decision log's events into Feast's online store

`mtorl COMMAND --help` says more.
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli import benchmark as benchmark_commands
from cli import data as data_commands
from cli.console import examples, keep_examples, stop, stop_on_signals

# Each command imports what it needs: `mtorl --help` must not wait ten seconds for torch and Feast.
os.environ.setdefault("DO_NOT_TRACK", "1")
# Arrow's usual allocator gives memory back at once, and takes it anew for each piece of a large table.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
app = typer.Typer(help=examples(__doc__), no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.add_typer(data_commands.app, name="data")
app.add_typer(benchmark_commands.app, name="benchmark")


@app.command()
def run(
    data: Annotated[
        str, typer.Option(help="Raw exposure log (CSV, CSV.gz or Parquet). Empty: the built-in simulator.")
    ] = "",
    dataset: Annotated[
        str, typer.Option(help="Built-in data set name, or the path of its YAML description.")
    ] = "simulator",
    bad_rows: Annotated[
        str, typer.Option(help="fail: stop at a faulty log. quarantine: go on without its faulty rows.")
    ] = "fail",
    users: Annotated[int, typer.Option(help="Users to simulate, or to keep of a real log. 0: 6000, or all.")] = 0,
    epochs: Annotated[int, typer.Option(help="Most epochs of training; early stopping may need fewer.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 7,
    rounds: Annotated[int, typer.Option(help="Online opportunities per held-out user.")] = 5,
    min_lift: Annotated[
        float, typer.Option(help="Lift per opportunity that the gate's lower bound must exceed.")
    ] = 0.0,
    root: Annotated[Path, typer.Option(help="Folder that runs are kept in.")] = Path("runs"),
) -> None:
    """Run the whole loop: log, features, training, gate, serving, A/B test, drift, report."""
    from cli.console import Steps, print_summary
    from pipelines.local import InputError
    from pipelines.loop import LoopConfig, run_loop

    stop_on_signals()
    try:
        config = LoopConfig(
            data=data,
            dataset=dataset,
            bad_rows=bad_rows,
            users=users,
            seed=seed,
            epochs=epochs,
            rounds=rounds,
            min_lift=min_lift,
            root=root,
        )
    except ValueError as error:
        stop(str(error), 2)
    try:
        with Steps() as steps:
            folder = run_loop(config, steps.on_step)
    except (InputError, OSError) as error:
        stop(str(error), 2)
    except RuntimeError as error:  # PipelineError: a step; StackError, TorchServeError: a server
        stop(str(error), 1)
    except KeyboardInterrupt:
        stop("stopped", 130)
    print_summary(folder, root)


@app.command()
def serve(
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")] = Path("runs/latest"),
    port: Annotated[int, typer.Option(help="Port of the router; 0 takes a free one.")] = 8080,
) -> None:
    """Start the servers of a run (TorchServe with both arms, router, Feast online store, ledger) until Ctrl-C."""
    if not (run / "summary.json").exists():
        stop(f"{run}: no finished run there; make one with: mtorl run", 2)
    from serving.local.stack import LocalStack

    stop_on_signals()
    try:
        typer.echo(f"starting TorchServe (incumbent, challenger) and the router of {run.resolve().name} ...")
        with LocalStack(run.resolve(), router_port=port) as stack:
            typer.echo(f"router  {stack.url}")
            typer.echo("ready   stop with Ctrl-C")
            stack.wait()
    except KeyboardInterrupt:
        typer.echo("stopped")
    except RuntimeError as error:  # StackError, TorchServeError: their text holds the log's tail
        stop(str(error), 1)


@app.command()
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="Folder of a finished artifact.")],
    data: Annotated[str, typer.Option(help="Raw log of users that it never saw. Empty: the built-in simulator.")] = "",
    dataset: Annotated[
        str, typer.Option(help="Built-in data set name, or the path of its YAML description.")
    ] = "simulator",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Leave out users of the training set. Else they are an error.")
    ] = False,
    users: Annotated[int, typer.Option(help="Users to simulate, or to keep of a log. 0: 6000, or all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the resampling, and of the simulator.")] = 11,
) -> None:
    """Judge a finished artifact on any log: its heads beside LightGBM's, policy value, budget curve, with intervals.

        mtorl evaluate runs/latest/artifacts/challenger --data log.csv.gz --dataset kuairand-sequence --only-new

    LightGBM was fitted on the same training users and lies in the artifact.
    """
    import json

    from cli.console import print_evaluation
    from pipelines.holdout import evaluate_on_log
    from pipelines.local import InputError

    stop_on_signals()
    if json_file is not None and not json_file.absolute().parent.is_dir():
        stop(f"--json: {json_file.parent} is no folder", 2)
    try:
        found = evaluate_on_log(artifact, data, dataset, seed, only_new, users)
    except InputError as error:
        stop(str(error), 2)
    except KeyboardInterrupt:
        stop("stopped", 130)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    print_evaluation(found)


@app.command()
def train(
    windows: Annotated[Path, typer.Argument(help="Windows folder, as `mtorl data build` or a run leaves it.")],
    out: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    epochs: Annotated[int, typer.Option(help="Most epochs; early stopping may need fewer.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and dropout.")] = 7,
    batch_size: Annotated[int, typer.Option(help="Windows that a process works on at a time.", min=1)] = 128,
    accumulate: Annotated[int, typer.Option(help="Such batches to a step of the optimizer.", min=1)] = 1,
    budget_share: Annotated[float, typer.Option(help="Budget, as a share of what always exposing would cost.")] = 0.6,
    checkpoint: Annotated[
        str, typer.Option(help="Start of the names of files that a killed training goes on from. Empty: none.")
    ] = "",
    log: Annotated[str, typer.Option(help="Folder for the metrics of each epoch, for TensorBoard. Empty: none.")] = "",
) -> None:
    """Train MTORL on a windows folder, outside of a pipeline.

        mtorl train runs/latest/windows model --checkpoint model.pt --log model-log

    On several GPUs, or processes of one machine, each takes its share of every batch:

        python -m torch.distributed.run --standalone --nproc-per-node=4 -m cli.main train runs/latest/windows model
    """
    from cli.console import Steps
    from mtorl.fitting.fit import fit_challenger
    from mtorl.network.checkpoint import CheckpointError
    from mtorl.network.training import TrainConfig, TrainingDiverged
    from mtorl.window.window import WindowError

    stop_on_signals()
    try:
        config = TrainConfig(epochs=epochs, seed=seed, batch_size=batch_size, accumulate=accumulate)
        with Steps() as steps, steps.step("train-challenger"):
            made = fit_challenger(str(windows), str(out), config, budget_share, checkpoint, log)
    except (CheckpointError, WindowError, ValueError, OSError) as error:
        stop(str(error), 2)
    except TrainingDiverged as error:
        stop(str(error), 1)
    except KeyboardInterrupt:
        stop("stopped" + (f"; the same command goes on from {checkpoint}" if checkpoint else ""), 130)
    if made is not None:
        auc = made.metrics["reward_auc"]
        typer.echo(f"{out}: {made.model['version']}, reward AUC {auc:.4f} on validation users")


@app.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("manifests/pipelines"),
) -> None:
    """Write the pipelines as YAML that a Kubeflow Pipelines cluster takes."""
    from pipelines.compile import compile_all

    for path in compile_all(out):
        typer.echo(path)


@app.command()
def materialize(
    feature_repo: Annotated[Path, typer.Option(help="Feast repository.")],
    log: Annotated[Path, typer.Option(help="Touchpoint log as it stands now (canonical Parquet).")],
    dataset: Annotated[str, typer.Option(help="Built-in data set name, or the path of its YAML description.")],
) -> None:
    """Bring the online store up to date with the touchpoint log."""
    import sqlite3

    import duckdb
    from redis.exceptions import RedisError

    from features.offline.store import refresh
    from features.online.history import HistoryError
    from mtorl.log.dataset import DatasetSpec, SpecError
    from mtorl.log.touchpoints import LogError

    try:
        refresh(feature_repo, DatasetSpec.load(dataset), log)
    except (SpecError, LogError, HistoryError, OSError) as error:
        stop(str(error), 2)
    except (duckdb.Error, sqlite3.Error, RedisError) as error:  # nothing is lost: the next run writes what is missing
        stop(f"{type(error).__name__}: {str(error).splitlines()[0]}", 2)


@app.command()
def feed(
    feature_repo: Annotated[Path, typer.Option(help="Feast repository.")],
    dataset: Annotated[str, typer.Option(help="Built-in data set name, or the path of its YAML description.")],
    journal: Annotated[
        Path, typer.Option(help="File for what is heard; keep it, it is where outcomes find decisions.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a pod.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 8090,
    keep_hours: Annotated[float, typer.Option(help="How long an outcome may come after its decision.")] = 168.0,
) -> None:
    """Take the events of routers' decision logs, and write what was shown into users' online histories.

    A router sends them with the setting `sink: http://HOST:PORT/`.
    """
    import asyncio
    import sqlite3

    from features.online.feed import Feed
    from features.online.history import HistoryError
    from features.online.journal import Journal
    from features.online.open_history import open_history
    from features.online.receiver import serve as serve_feed
    from mtorl.log.dataset import DatasetSpec, SpecError

    if not keep_hours > 0:
        stop(f"--keep-hours: expected a number above 0, got {keep_hours}", 2)
    try:
        with open_history(feature_repo, DatasetSpec.load(dataset)) as history, closing(Journal(journal)) as heard:
            asyncio.run(serve_feed(Feed(heard, history, keep_hours), host, port))
    except (SpecError, HistoryError, OSError) as error:
        stop(str(error), 2)
    except sqlite3.Error as error:
        stop(f"{journal}: {error}" + (": only one process may have it open" if "locked" in str(error) else ""), 2)


@app.command()
def drift(
    decision_log: Annotated[Path, typer.Option(help="Folder with decisions.parquet.")],
    artifact: Annotated[Path, typer.Option(help="Artifact of the served model; holds the training reference.")],
    out: Annotated[Path, typer.Option(help="Folder for drift.html and drift.json.")],
    since: Annotated[str, typer.Option(help="Start of the period, ISO time. Empty: no bound.")] = "",
    until: Annotated[str, typer.Option(help="End of the period, ISO time. Empty: no bound.")] = "",
    alert_url: Annotated[
        str, typer.Option(envvar="ALERTMANAGER_URL", help="Alertmanager to tell; empty for none.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the threshold calibration.")] = 7,
) -> None:
    """Compare a served period with the model's training reference; exit code 3 when a column drifted."""
    from monitoring.alerts import AlertError
    from monitoring.decision_log import Period
    from monitoring.period import drift_of_period
    from mtorl.artifact.artifact import ArtifactError

    try:
        for name, value in (("--since", since), ("--until", until)):
            if value and not _is_time(value):
                stop(f"{name}: {value!r} is not an ISO time such as 2026-01-31T12:00:00Z", 2)
        found = drift_of_period(str(decision_log), str(artifact), Period(since, until), str(out), seed, alert_url)
    except (ArtifactError, OSError) as error:
        stop(str(error), 2)
    except AlertError as error:
        stop(f"the check is done (see {out}), but nobody was told: {error}", 1)
    if found["not_checked"]:
        stop(f"not checked: {found['not_checked']}", 1)
    drifted = found["detected_columns"]
    typer.echo(f"{found['rows']} rows, drifted: {', '.join(drifted) or 'none'}; report: {out / 'drift.html'}")
    raise typer.Exit(3 if drifted else 0)


keep_examples(app)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def main() -> None:
    """Console entry point."""
    app()


if __name__ == "__main__":
    main()
