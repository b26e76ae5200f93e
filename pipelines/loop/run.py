"""The order of things in a run of the loop: train, gate, serve, decide, learn the outcome, judge, watch, report.

Every part is the one that runs on a cluster: KFP pipelines (through kfp.local), Feast, TorchServe, the router on
KServe's ModelServer, the ledger and the decision log. Only the traffic is made here: by the simulator, or by replaying
held-out users of a real log.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from features.collect.report import Learnable
from features.ingest.object_store import is_remote
from mtorl.artifact.saving import FEATURE_SERVICE
from mtorl.log.dataset import SIMULATOR
from pipelines import local, monitoring, training
from pipelines.loop import online, ramp
from pipelines.loop.config import LoopConfig
from pipelines.loop.run_folder import QUARANTINE, keep_only_quarantine, new_run, point_latest
from pipelines.loop.simulated_lift import policy_of, true_lift
from pipelines.loop.summary import Finished, Monitored, write_summary
from pipelines.loop.traffic import Traffic
from pipelines.steps import OnStep, Step, StepTimes


def run_loop(config: LoopConfig, on_step: OnStep) -> Path:
    """Run the loop.

    Args:
        config: Settings.
        on_step: Told about the start, advance and end of every step.

    Returns:
        The run's folder; ``<root>/latest`` points to it.

    Raises:
        local.InputError: The input can't be used; nothing but the quarantine file is left behind.
        local.PipelineError: A step failed; the run's folder is left for a look at its logs.
    """
    from features.ingest.ingest import way_on
    from monitoring.report import render
    from serving.decision_log.export import export_parquet

    started = time.monotonic()
    times = StepTimes(on_step)
    run = new_run(config.root)
    try:
        steps = _train(config, run, times)
    except local.InputError as error:
        if quarantine := keep_only_quarantine(run):
            raise local.InputError(f"{error}\n{way_on(quarantine, config.bad_rows)}") from None
        raise

    trained = online.Trained(config, run)
    audience = online.Audience.of(trained)
    experiment = online.Experiment.of(trained, audience)
    served = online.serve(trained, audience, experiment, times)
    export_parquet(run / "serving" / "spool", run / "decision_log")
    with times.step("next-night", "what the next night would learn"):
        learned = _collect(trained, served.clean)

    judged_by = {
        "gain": trained.spec.reward.gain.text,
        "weights": _write_weights(run, served.clean) if trained.replays else "",
        "budget": experiment.budget if trained.replays else 0.0,
        "seed": config.seed,
    }
    simulated = None
    with ThreadPoolExecutor(1) as beside:  # the monitoring's steps are processes, of one thread each
        truth = beside.submit(_true_lift, trained, audience, experiment)
        monitored = {
            "clean": _monitor(run, "clean", "live traffic", served.clean, judged_by, times),
            "shifted": _monitor(run, "shifted", "shifted traffic", served.shifted, judged_by, times),
        }
        if audience.simulator is not None:
            with times.step("true-lift", "true difference from the simulator"):
                simulated = truth.result()
    seconds = time.monotonic() - started
    finished = Finished(trained, steps, served, monitored, simulated, learned, times.seconds, seconds)
    write_summary(finished)
    with times.step("report", "report"):
        render(run)
    point_latest(config.root, run)
    return run


def _train(config: LoopConfig, run: Path, on_step: OnStep) -> dict[str, local.StepResult]:
    """Run the training pipeline and copy what it made to plain places in the run's folder."""
    steps = local.run(
        training.build(),
        {
            "source": _source(config.data),
            "dataset": config.dataset,
            "feature_repo": str(run / "features"),
            "decision_log": "",  # nothing serves before a run
            "collected": str(Path(config.collected).resolve()) if config.collected else "",
            "registry": str(run / "registry"),
            "bad_rows": config.bad_rows,
            "users": config.users,
            "seed": config.seed,
            "epochs": config.epochs,
            "budget_share": config.budget_share,
            "min_lift": config.min_lift,
        },
        run / "pipeline",
        on_step,
    )
    for source, target in (
        (steps["ingest"].paths["log"], run / "data"),
        (steps["build-features"].paths["windows"], run / "windows"),
        (steps["fit-incumbent"].paths["model"], run / "artifacts" / "incumbent"),
        (steps["train-challenger"].paths["model"], run / "artifacts" / "challenger"),
        (steps["package"].paths["model_store"], run / "model-store"),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.copy2(steps["evaluate"].paths["evaluation"], run / "evaluation.json")
    if steps["ingest"].values["quarantined"]:
        shutil.copy2(steps["ingest"].paths["quarantine"], run / QUARANTINE)
    return steps


def _collect(trained: online.Trained, traffic: Traffic) -> Learnable | None:
    """Keep the decisions as the next night's training would read them; None for a replay.

    A replay knows what came of an exposure only where the log had the same one: such decisions teach nothing new.
    """
    from features.collect.store import collect
    from features.collect.training_log import Decisions, learnable

    if trained.replays:
        return None
    collect(trained.folder / "decision_log", trained.folder / "collected")
    return learnable(trained.folder / "collected", trained.spec, Decisions(until=traffic.until.isoformat()))


def _true_lift(
    trained: online.Trained, audience: online.Audience, experiment: online.Experiment
) -> dict[str, float] | None:
    """What the experiment should have found; None: nobody knows."""
    from serving.router.flow.features import FeastSource

    if audience.simulator is None:
        return None
    store = FeastSource(trained.folder / "features", FEATURE_SERVICE)
    return true_lift(
        audience.simulator,
        {name: policy_of(artifact, store) for name, artifact in trained.arms.items()},
        list(audience.source.opportunities),
        trained.config.rounds,
        experiment.budget,
        experiment.price,
        trained.config.seed,
        trained.spec.reward.gain,
    )


def _source(data: str) -> str:
    """A log as the pipeline's steps name it, which run in folders of their own."""
    if not data:
        return SIMULATOR
    return data if is_remote(data) else str(Path(data).resolve())


def _write_weights(run: Path, traffic: Traffic) -> str:
    """Write how much each decision of a replay counts; returns the path."""
    path = run / "decision_log" / "weights.parquet"
    traffic.weight_table().to_parquet(path)
    return str(path)


def _monitor(
    run: Path, name: str, title: str, traffic: Traffic, judged_by: dict[str, Any], on_step: OnStep
) -> Monitored:
    """Run the monitoring pipeline on the period of some traffic, and tell a webhook of ours what it has found."""
    from monitoring.webhook import message, post
    from monitoring.webhook_receiver import Receiver

    def on_its_step(step: Step, done: float, total: float, note: str) -> None:
        on_step(Step(f"{step.name}-{name}", f"{step.title}, {title}"), done, total, note)

    steps = local.run(
        monitoring.build(),
        {
            "decision_log": str(run / "decision_log"),
            "experiment": str(run / ramp.FILE),
            "artifact": str(run / "artifacts" / "challenger"),
            "out": str(run / "drift" / name),
            "since": traffic.since.isoformat(),
            "until": traffic.until.isoformat(),
            **judged_by,
        },
        run / f"pipeline-monitor-{name}",
        on_its_step,
    )
    with Receiver() as receiver:
        if found := message(json.loads(steps["drift"].paths["result"].read_text())):
            post(found, receiver.url)
        return Monitored(steps, alerts=sum(len(told["findings"]) for told in receiver.received))
