"""`mtorl train`, `evaluate` and `benchmark`: a model outside of a pipeline, judged on users that it never saw."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup, Dataset, Users
from cli.endings import exit_codes, stop

app = CommandGroup()
benchmark = CommandGroup("How good the model is, beside other methods.")


@app.command()
def train(
    windows: Annotated[Path, typer.Argument(help="Windows folder, as `mtorl data build` or a run leaves it.")],
    out: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    epochs: Annotated[int, typer.Option(help="Most epochs; early stopping may need fewer.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and dropout.")] = 7,
    settings: Annotated[
        Path | None, typer.Option(help="YAML of settings, as `mtorl search` writes it, such as batch_size.")
    ] = None,
    budget_share: Annotated[float, typer.Option(help="Budget, as a share of what always exposing would cost.")] = 0.6,
    checkpoint: Annotated[
        str, typer.Option(help="Start of the names of files that a killed training goes on from. Empty: none.")
    ] = "",
    log: Annotated[str, typer.Option(help="Folder for the metrics of each epoch, for TensorBoard. Empty: none.")] = "",
) -> None:
    """Train MTORL on a windows folder, outside of a pipeline.

        mtorl train runs/latest/windows model --checkpoint model.pt --log model-log
        mtorl train runs/latest/windows model --settings best/settings.yaml

    On several GPUs, or processes of one machine, each takes its share of every batch:

        torchrun --standalone --nproc-per-node=4 -m cli.main train runs/latest/windows model
    """
    from cli.progress_bars import ProgressBars
    from mtorl.fitting.fit import fit_challenger
    from mtorl.fitting.settings import load_settings, with_settings
    from mtorl.network.parallel import TrainingFailed
    from mtorl.network.training import TrainConfig, TrainingDiverged

    stopped = "stopped" + (f"; the same command goes on from {checkpoint}" if checkpoint else "")
    with exit_codes(TrainingDiverged, TrainingFailed, stopped=stopped):
        chosen = {} if settings is None else load_settings(settings)
        config = with_settings(TrainConfig(epochs=epochs, seed=seed), chosen)
        with ProgressBars() as bars, bars.step("train MTORL"):
            artifact = fit_challenger(str(windows), str(out), config, budget_share, checkpoint, log)
    if artifact is not None:  # of several processes, one saves the artifact
        auc = artifact.metrics["reward_auc"]
        typer.echo(f"{out}: {artifact.model['version']}, reward AUC {auc:.4f} on validation users")


@app.command()
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="Folder of a finished artifact.")],
    data: Annotated[str, typer.Option(help="Raw log of users that it never saw. Empty: the built-in simulator.")] = "",
    dataset: Dataset = "simulator",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Leave out users of the training set. Else they are an error.")
    ] = False,
    users: Users = 0,
    seed: Annotated[int, typer.Option(help="Seed of the resampling, and of the simulator.")] = 11,
) -> None:
    """Evaluate a finished artifact on any log: heads against LightGBM's, policy value, with intervals.

        mtorl evaluate runs/latest/artifacts/challenger --seed 99 --only-new
        mtorl evaluate runs/latest/artifacts/challenger --data log.csv.gz --dataset kuairand-sequence --only-new

    LightGBM was fitted on the same training users and lies in the artifact.
    """
    from cli.tables import print_evaluation
    from pipelines.evaluation_on_log import evaluate_on_log

    with exit_codes():
        if json_file is not None and not json_file.absolute().parent.is_dir():
            stop(f"--json: {json_file.parent} is no folder", 2)
        figures = evaluate_on_log(artifact, data, dataset, seed, only_new, users)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    print_evaluation(figures)


@benchmark.command()
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

    Less than an hour on two cores for both samples, ten minutes with --repeats 1. You may stop it: the same
    command continues.

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
