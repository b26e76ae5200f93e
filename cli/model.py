"""The commands `mtorl train`, `evaluate` and `benchmark paper`, which need no pipeline."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup, Dataset, Users
from cli.endings import exit_codes, stop

app = CommandGroup()
benchmark = CommandGroup("Compare the model with other methods.")


@app.command()
def train(
    windows: Annotated[Path, typer.Argument(help="Windows folder from `mtorl data build` or a run.")],
    out: Annotated[Path, typer.Argument(help="Artifact folder to write.")],
    epochs: Annotated[int, typer.Option(help="Maximum epochs; early stopping may need fewer.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Random seed of initialisation, order and dropout.")] = 7,
    settings: Annotated[
        Path | None, typer.Option(help="YAML file with training settings, as `mtorl search` writes it.")
    ] = None,
    budget_share: Annotated[float, typer.Option(help="Budget, as a share of the cost of exposing always.")] = 0.6,
    checkpoint: Annotated[
        str, typer.Option(help="Prefix of the checkpoint files, from which a killed training resumes. Empty: none.")
    ] = "",
    log: Annotated[str, typer.Option(help="Folder for the metrics of each epoch, for TensorBoard. Empty: none.")] = "",
) -> None:
    """Train MTORL on a windows folder, without a pipeline.

        mtorl train runs/latest/windows model --checkpoint model.pt --log model-log
        mtorl train runs/latest/windows model --settings best/settings.yaml

    To use several GPUs or processes of one machine, start the command with torchrun. Each process then trains on its
    share of every batch:

        torchrun --standalone --nproc-per-node=4 -m cli.main train runs/latest/windows model
    """
    from cli.progress_bars import ProgressBars
    from mtorl.fitting.fit import fit_challenger
    from mtorl.fitting.settings import load_settings, with_settings
    from mtorl.network.parallel import TrainingFailed
    from mtorl.network.training import TrainConfig, TrainingDiverged

    stopped = "stopped" + (f"; the same command resumes from {checkpoint}" if checkpoint else "")
    with exit_codes(TrainingDiverged, TrainingFailed, stopped=stopped):
        chosen = {} if settings is None else load_settings(settings)
        config = with_settings(TrainConfig(epochs=epochs, seed=seed), chosen)
        with ProgressBars() as bars, bars.step("train MTORL"):
            artifact = fit_challenger(str(windows), str(out), config, budget_share, checkpoint, log)
    # If several processes train together, only the leading one has an artifact.
    if artifact is not None:
        auc = artifact.metrics["reward_auc"]
        typer.echo(f"{out}: {artifact.model['version']}, reward AUC {auc:.4f} on validation users")


@app.command()
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    data: Annotated[str, typer.Option(help="Raw log of users outside the training set. Empty: the simulator.")] = "",
    dataset: Dataset = "simulator",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Skip users of the training set. Without it, they are an error.")
    ] = False,
    users: Users = 0,
    seed: Annotated[int, typer.Option(help="Random seed of the resampling and the simulator.")] = 11,
) -> None:
    """Evaluate an artifact on a log: compare its predictions with LightGBM, and estimate the value of its policy.

        mtorl evaluate runs/latest/artifacts/challenger --seed 99 --only-new
        mtorl evaluate runs/latest/artifacts/challenger --data log.csv.gz --dataset kuairand-sequence --only-new

    The estimated value has a confidence interval. The LightGBM models are part of the artifact, and were fitted on the
    same training users.
    """
    from cli.tables import print_evaluation
    from pipelines.evaluation_on_log import evaluate_on_log

    with exit_codes():
        if json_file is not None and not json_file.absolute().parent.is_dir():
            stop(f"--json: there is no folder {json_file.parent}", 2)
        figures = evaluate_on_log(artifact, data, dataset, seed, only_new, users)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    print_evaluation(figures)


@benchmark.command()
def paper(
    kuairand: Annotated[str, typer.Option(help="The authors' KuaiRand sample. Empty: skip it.")] = "",
    criteo: Annotated[str, typer.Option(help="The authors' Criteo sample. Empty: skip it.")] = "",
    root: Annotated[Path, typer.Option(help="Working folder; finished jobs in it are reused.")] = Path("runs/paper"),
    out: Annotated[Path, typer.Option(help="Folder for results.md and results.json.")] = Path("docs"),
    repeats: Annotated[int, typer.Option(help="User folds, and seeds (at most 3).", min=1, max=5)] = 5,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    methods: Annotated[str, typer.Option(help="Methods besides MTORL and LightGBM, comma-separated. Empty: all.")] = "",
    users: Annotated[int, typer.Option(help="Users to simulate (0: 6000), or to keep from each log (0: all).")] = 0,
) -> None:
    """Compare MTORL with its ablations and other methods, on the same windows, splits and metrics.

        mtorl benchmark paper --kuairand kuairand_sequence.csv.gz --criteo criteo_sequence.csv.gz

    Both samples take less than an hour on two cores, or ten minutes with --repeats 1. If the command was interrupted,
    run it again, and it continues.

    Without a log, the command simulates one. For a quick try:

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
    stopped = f"stopped; the same command resumes from {root}"
    with exit_codes(stopped=stopped), ProgressBars() as bars:
        results = run_paper(config, partial(bars.on_step, Step("jobs", "compare the methods")))
    out.mkdir(parents=True, exist_ok=True)
    machine = environment("torch", "lightgbm")
    (out / "results.json").write_text(json.dumps({"environment": machine, "results": results}) + "\n")
    (out / "results.md").write_text(report(results, machine))
    typer.echo(f"{out / 'results.md'}  {out / 'results.json'}")
