"""The commands `mtorl search` (locally), `katib` (on a cluster) and `trial` (in Katib's pods)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import CommandGroup, Seed
from cli.endings import exit_codes, stop

if TYPE_CHECKING:
    from mtorl.fitting.search import SearchReport

app = CommandGroup()

Epochs = Annotated[
    int, typer.Option(help="Maximum epochs of a trial. Use the number of the training that gets the settings.", min=1)
]
_TABLE = 10


@app.command()
def search(
    windows: Annotated[Path, typer.Argument(help="Windows folder from `mtorl data build` or a run.")],
    out: Annotated[Path, typer.Argument(help="Folder of the search; an interrupted search resumes.")],
    trials: Annotated[int, typer.Option(help="Total trials, including those already in the folder.", min=1)] = 30,
    timeout: Annotated[float, typer.Option(help="Seconds after which no new trial starts. 0: no limit.", min=0)] = 0.0,
    epochs: Epochs = 15,
    seed: Seed = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all trials to this file.")] = None,
) -> None:
    """Search for the training settings that predict validation users best.

        mtorl search runs/latest/windows best --trials 30
        mtorl train runs/latest/windows model --settings best/settings.yaml

    The first trial uses the default settings. Optuna's algorithm TPE proposes the settings of the other trials, and
    unpromising trials are stopped early. The search never reads test users. The training pipeline accepts the same file
    of settings:

        kfp run create -e mtorl -f mtorl-train.yaml ... settings="$(cat best/settings.yaml)"
    """
    from cli.progress_bars import ProgressBars
    from mtorl.fitting.search import SETTINGS_FILE, SearchConfig
    from mtorl.fitting.search import search as run_search

    if json_file is not None and not json_file.absolute().parent.is_dir():
        stop(f"--json: there is no folder {json_file.parent}", 2)
    stopped = f"stopped; the same command resumes from {out}"
    with exit_codes(stopped=stopped), ProgressBars() as bars, bars.step("search"):
        config = SearchConfig(trials=trials, timeout=timeout, epochs=epochs, seed=seed)
        report = run_search(str(windows), str(out), config)
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    _print_search(report)
    typer.echo(f"settings: {out / SETTINGS_FILE}")


@app.command()
def trial(
    windows: Annotated[Path, typer.Argument(help="Windows folder.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; may be repeated.")
    ] = None,
    epochs: Epochs = 15,
    seed: Seed = 7,
) -> None:
    """Train one network with the given settings, and print its validation loss. No file is written.

        mtorl trial runs/latest/windows --set lr=0.01 --set hidden=128

    After each epoch, the command prints a line for Katib, with the time and validation_loss=VALUE. The value belongs to
    the best weights so far.
    """
    from mtorl.fitting.search import METRIC, Trials
    from mtorl.fitting.settings import parse_settings, with_settings
    from mtorl.network.training import TrainConfig, TrainingDiverged

    def on_epoch(epoch: int, loss: float) -> None:
        # Katib reads the time of a value at the start of the line.
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        print(f"{now} {METRIC}={loss:.6f} epoch={epoch}", flush=True)

    with exit_codes(TrainingDiverged):
        config = with_settings(TrainConfig(epochs=epochs, seed=seed), parse_settings(settings or []))
        Trials(str(windows)).run(config, on_epoch)


@app.command()
def katib(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("manifests/katib/experiment.yaml"),
    windows: Annotated[str, typer.Option(help="Windows folder inside the pods.")] = "/mnt/mtorl/built/windows",
    trials: Annotated[int, typer.Option(help="Total trials.", min=1)] = 30,
    parallel: Annotated[int, typer.Option(help="Parallel trials.", min=1)] = 3,
    epochs: Epochs = 15,
    seed: Seed = 7,
) -> None:
    """Write the search as a Katib experiment, which runs the trials in parallel on a cluster.

        MTORL_IMAGE=registry.example.com/mtorl/train:TAG mtorl katib --out search.yaml
        kubectl -n mtorl create -f search.yaml

    manifests/katib/README.md lists what the cluster needs.
    """
    from pipelines.cluster.katib import write

    with exit_codes():
        write(out, windows, trials, parallel, epochs, seed)
    typer.echo(out)


def _print_search(report: SearchReport) -> None:
    from rich.console import Console
    from rich.table import Column

    from cli.tables import titled

    figures = (Column(name, justify="right", no_wrap=True) for name in ("trial", "loss", "epochs"))
    table = titled(f"{len(report.trials)} trials, the best first", *figures, "settings")
    ranked = sorted(report.trials, key=lambda one: (one.ended != "complete", one.loss or 0.0))
    for one in [*ranked[:_TABLE], *(one for one in ranked[_TABLE:] if one.number == 0)]:
        name = "default" if one.number == 0 else str(one.number)
        loss = "-" if one.loss is None else f"{one.loss:.4f}"
        epochs = str(one.epochs) if one.ended == "complete" else f"{one.epochs}, {one.ended}"
        settings = ", ".join(f"{setting} {value:.3g}" for setting, value in one.settings.items())
        table.add_row(name, loss, epochs, settings)
    console = Console()
    console.print(table)
    if report.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in report.importance.items())
        console.print(f"importance, share of the loss's variance: {shares}", highlight=False, soft_wrap=True)
    early = sum(one.ended != "complete" for one in report.trials)
    default = "diverged" if report.default_loss is None else f"{report.default_loss:.4f}"
    console.print(
        f"loss of validation users: {report.best.loss:.4f}, default {default}; {early} trials ended early",
        highlight=False,
    )
