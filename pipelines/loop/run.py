"""Runs all stages of `mtorl run`: training, gate, serving, experiment, verdict, monitoring and report.

The pipeline, the router and the monitor are the same as on a cluster. Only the traffic is artificial.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtorl.runtime.errors import InputError
from mtorl.runtime.snapshots import located
from mtorl.window.window import AD_DECISION
from pipelines import local, monitoring, training
from pipelines.loop import online, ramp, run_folder
from pipelines.loop.config import LoopConfig
from pipelines.loop.monitored_days import check_days
from pipelines.loop.simulated_lift import policy_of, true_lift
from pipelines.loop.summary import Finished, write_summary
from pipelines.loop.traffic import Traffic
from pipelines.profile import LAPTOP
from pipelines.steps import OnStep, StepTimes


def run_loop(config: LoopConfig, on_step: OnStep, interrupted: Path | None = None) -> Path:
    """Run all stages, and return the run's folder, to which ``<root>/latest`` points.

    Args:
        interrupted: Folder of an interrupted run, as `to_resume` returns it. None starts a new run.

    Raises:
        InputError: The input is invalid. Of the run's folder, only the file with faulty rows is kept.
        local.PipelineError: A step failed. The run's folder is kept, with its logs.
    """
    run = interrupted or run_folder.new_run(config.root)
    with run_folder.at_work(run):
        try:
            if interrupted is None:
                with _keeping_only_quarantine(run, config):
                    run_folder.begin(run, config)
            left = run_folder.outputs_of(run, "rehearse") or run_folder.outputs_of(run, "train") or {}
            _go_on(config, run, StepTimes(on_step, left.get("seconds_of_step", {}), left.get("seconds", 0.0)))
        except BaseException as error:
            if run.exists() and run_folder.outputs_of(run, "begin"):
                served = f"{run} can be served: mtorl serve --run {run}\n" if run_folder.can_be_served(run) else ""
                error.add_note(f"{served}resume after the last finished stage: mtorl run --resume --root {config.root}")
            raise
    return run


def _go_on(config: LoopConfig, run: Path, times: StepTimes) -> None:
    from monitoring.report import render

    def finished_with(stage: run_folder.Stage, outputs: dict[str, Any]) -> None:
        run_folder.finish(run, stage, {**outputs, "seconds": times.total, "seconds_of_step": times.seconds})

    trained = online.Trained(config, run)
    if (left := run_folder.outputs_of(run, "train")) is not None:
        run_folder.point_latest(config.root, run)
        steps = {name: local.StepResult(values, metrics, {}) for name, (values, metrics) in left["steps"].items()}
    else:
        with _keeping_only_quarantine(run, config):
            steps = _train(config, run, times)
    audience = online.Audience.of(trained)
    experiment = online.Experiment.of(trained, audience)
    if (rehearsal := run_folder.outputs_of(run, "rehearse")) is not None:
        served = online.Served.from_json(rehearsal["served"], run)
    else:
        online.prepare(trained, audience, experiment, times)
        results = {name: (result.values, result.metrics) for name, result in steps.items()}
        finished_with("train", {"steps": results})
        # A run that is killed during its traffic can still be served.
        run_folder.point_latest(config.root, run)
        served = online.serve(trained, audience, experiment, times)
        finished_with("rehearse", {"served": served.to_json()})
    write_summary(_judge(trained, audience, experiment, served, steps, times))
    with times.step("report", "report"):
        render(run)
    finished_with("report", {})


@contextmanager
def _keeping_only_quarantine(run: Path, config: LoopConfig) -> Iterator[None]:
    """Remove the folder of a run with invalid input, except its file of faulty rows."""
    from features.ingest.ingest import remedy

    try:
        yield
    except InputError as error:
        if quarantine := run_folder.keep_only_quarantine(run):
            raise InputError(f"{error}\n{remedy(quarantine, config.bad_rows)}") from None
        raise


def _judge(
    trained: online.Trained,
    audience: online.Audience,
    experiment: online.Experiment,
    served: online.Served,
    steps: dict[str, local.StepResult],
    times: StepTimes,
) -> Finished:
    from features.collect.training_log import learnable

    learned = simulated = None
    with times.step("next-night", "what the next night would learn"):
        # A replay teaches the next training nothing new.
        if not trained.replays:
            spec = trained.spec.replace(outcome_hours=0.0)
            learned = learnable(trained.folder / run_folder.LAKE, spec, served.clean.until)
    # The verdict runs in a subprocess, so compute the true lift meanwhile.
    with ThreadPoolExecutor(1) as pool:
        truth = pool.submit(_true_lift, trained, audience, experiment) if audience.simulator else None
        judged = _verdict(trained, experiment, served.clean, times)
        with times.step("monitor", "monitor: days of live traffic, days of shifted traffic"):
            monitored = check_days(trained, served)
        if truth is not None:
            with times.step("true-lift", "true difference from the simulator"):
                simulated = truth.result()
    steps = {**steps, **judged}
    return Finished(trained, steps, served, monitored, simulated, learned, times.seconds, times.total)


def _train(config: LoopConfig, run: Path, on_step: OnStep) -> dict[str, local.StepResult]:
    root, own = run / "pipeline", config.own_decisions
    # A step of a killed run may still be running.
    local.end_steps_of(root)
    names = ("source", "dataset", "bad_rows", "users", "seed", "epochs", "budget_share", "min_lift")
    arguments = {name: getattr(config, name) for name in names} | {
        "feature_repo": str(run / "features"),
        "lake": "",
        "own_decisions": own if "://" in own or not own else str(Path(own).resolve()),
        "registry": str(run / "registry"),
        "code_version": local.code_version(),
    }
    # The training keeps its checkpoint in this folder.
    pipeline = training.build(replace(LAPTOP, folder=str(root)))
    steps = local.run(pipeline, arguments, root, on_step, cache=root / "cache")
    for source, target in (
        (steps["ingest"].paths["log"], run / "data"),
        (steps["build-features"].paths["windows"], run / "windows"),
        (steps["fit-incumbent"].paths["model"], run / "artifacts" / "incumbent"),
        (steps["train-challenger"].paths["model"], run / "artifacts" / "challenger"),
        (steps["package"].paths["model_store"], run / "model-store"),
    ):
        shutil.copytree(located(str(source)), target, dirs_exist_ok=True)
    shutil.copy2(steps["evaluate"].paths["evaluation"], run / "evaluation.json")
    shutil.copy2(steps["gate"].paths["report"], run / "gate.json")
    if steps["ingest"].values["quarantined"]:
        shutil.copy2(steps["ingest"].paths["quarantine"], run / run_folder.QUARANTINE)
    return steps


def _true_lift(trained: online.Trained, audience: online.Audience, experiment: online.Experiment) -> dict[str, float]:
    from serving.router.flow.features import FeastSource

    assert audience.simulator is not None, "a replay has no simulator"
    store = FeastSource(trained.folder / "features", AD_DECISION)
    return true_lift(
        audience.simulator,
        {name: policy_of(artifact, store, trained.explored) for name, artifact in trained.arms.items()},
        list(audience.source.opportunities),
        trained.config.rounds,
        experiment.budget,
        experiment.price,
        trained.config.seed,
        trained.spec.reward.gain,
    )


def _verdict(
    trained: online.Trained, experiment: online.Experiment, traffic: Traffic, on_step: OnStep
) -> dict[str, local.StepResult]:
    run = trained.folder
    weights = run / "weights.parquet"
    if trained.replays:
        traffic.weight_table().to_parquet(weights)
    return local.run(
        monitoring.build(),
        {
            "lake": str(run / run_folder.LAKE),
            "experiment": str(run / ramp.FILE),
            "gain": trained.spec.reward.gain.text,
            "weights": str(weights) if trained.replays else "",
            "budget": experiment.budget if trained.replays else 0.0,
            "since": traffic.since.isoformat(),
            "until": traffic.until.isoformat(),
        },
        run / "pipeline-monitor",
        on_step,
    )
