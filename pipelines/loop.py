"""The whole loop on one machine: train, gate, serve, decide, learn the outcome, judge, watch.

Every part is the one that runs on a cluster: KFP pipelines (through kfp.local), Feast, TorchServe, the router on
KServe's ModelServer, the ledger and the decision log. Only the traffic is made here: by the simulator, or by replaying
held-out users of a real log.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from features.online.history import History
from mtorl.artifact.artifact import Artifact
from mtorl.artifact.artifact import load as load_artifact
from mtorl.log.dataset import DatasetSpec
from mtorl.log.propensity import logged_propensity
from mtorl.log.splits import split_of
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from pipelines import local, monitoring, training
from pipelines.simulated_lift import true_lift
from pipelines.summary import summarise, write_summary
from pipelines.traffic import Traffic, drive
from pipelines.traffic_sources import ReplayWorld, ShiftedWorld, SimulatedWorld, World

OnStep = local.OnStep


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one run of the loop.

    Attributes:
        data: Raw log; empty runs the simulator.
        dataset: Built-in data set name or the path of its YAML.
        bad_rows: "fail" or "quarantine".
        users: Users to simulate or to keep of a real log; 0 for the default (6,000, or all).
        seed: Seed of everything random.
        epochs: Most epochs of training; early stopping may need fewer.
        rounds: Opportunities per user in the online part.
        budget_share: Budget of each arm, as a share of what always exposing would cost.
        min_lift: Lift that the gate's lower bound must exceed, in gain per opportunity.
        concurrency: Requests in flight.
        root: Folder that runs are kept in.
    """

    data: str = ""
    dataset: str = "simulator"
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7
    epochs: int = 12
    rounds: int = 5
    budget_share: float = 0.6
    min_lift: float = 0.0
    concurrency: int = 8
    root: Path = Path("runs")

    def __post_init__(self) -> None:
        if self.bad_rows not in ("fail", "quarantine"):
            raise ValueError(f"bad_rows must be 'fail' or 'quarantine', got {self.bad_rows!r}")
        for name in ("users", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("epochs", "rounds", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.budget_share <= 1:
            raise ValueError(f"budget_share must be above 0 and at most 1, got {self.budget_share}")


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
    started = time.monotonic()
    run = _new_run(config.root)
    try:
        steps = _train(config, run, on_step)
    except local.InputError:
        _keep_only_quarantine(run)
        raise
    return _online(config, run, steps, on_step, started)


def _train(config: LoopConfig, run: Path, on_step: OnStep) -> dict[str, local.StepResult]:
    steps = local.run(
        training.build(),
        {
            "feature_repo": str(run / "features"),
            "quarantine": str(run / "data" / "quarantine.csv"),
            "registry": str(run / "registry"),
            "source": str(Path(config.data).resolve()) if config.data else "",
            "dataset": config.dataset,
            "on_bad_rows": config.bad_rows,
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
    return steps


def _online(config: LoopConfig, run: Path, steps: dict[str, local.StepResult], on_step: OnStep, started: float) -> Path:
    from features.offline.store import refresh
    from features.online.open_history import open_history
    from monitoring.report import render
    from serving.decision_log.export import export_parquet
    from serving.local.stack import LocalStack

    log = pd.read_parquet(run / "data" / "touchpoints.parquet")
    spec = DatasetSpec.load(str(run / "data" / "dataset.yaml"))
    arms = {name: load_artifact(run / "artifacts" / name) for name in ("incumbent", "challenger")}
    world, before, simulator = _world(config, run, spec, log)
    replay = simulator is None
    budget = config.budget_share * float(log["cost"].mean())  # currency units per decision, the same for both arms
    # A replay knows the cost of matched exposures only, and an arm that agrees more with the log would run dry sooner:
    # there the ledger's limit never binds, and the verdict thins an arm that would spend more than the budget.
    most = 2 * max(arms["challenger"].model["cost_cap"].values())
    limit = len(world.users) * config.rounds * (most if replay else budget)
    _write_experiment(run, spec, limit, float(log["cost"].mean()), arms["challenger"], config.seed)

    traffic, shifted = Traffic(), Traffic()
    with _step(on_step, "materialise"):
        # As the nightly job would have left it. From here on the store learns of touchpoints as they happen.
        before.to_parquet(run / "data" / "online.parquet", index=False)
        refresh(run / "features", spec, run / "data" / "online.parquet", list(world.users))
    with (
        open_history(run / "features", spec) as history,
        _started(on_step, "start-serving", LocalStack(run)) as stack,
    ):
        moved = ShiftedWorld(world, spec, arms["challenger"].reference())
        windows = {
            "clean": _send(world, stack.url, traffic, "live", config.concurrency, history, on_step),
            "shifted": _send(moved, stack.url, shifted, "shifted", config.concurrency, history, on_step),
        }

    export_parquet(run / "serving" / "spool", run / "decision_log")
    weights = run / "decision_log" / "weights.parquet"
    pd.DataFrame({"decision_id": list(traffic.weights), "weight": list(traffic.weights.values())}).to_parquet(weights)
    judged_by = {
        "gain": spec.reward.gain,
        "weights": str(weights) if replay else "",
        "budget": budget if replay else 0.0,
        "seed": config.seed,
    }
    alerts = {name: _monitor(run, name, window, judged_by, on_step) for name, window in windows.items()}
    truth = None
    if simulator is not None:
        with _step(on_step, "true-lift"):
            truth = true_lift(simulator, arms, world.users, config.rounds, budget, config.seed)
    errors = [*traffic.errors, *shifted.errors]
    summary = summarise(
        run, spec, config, steps, traffic.latencies, errors, windows["clean"], alerts, truth, time.monotonic() - started
    )
    write_summary(run, summary)
    with _step(on_step, "report"):
        render(run)
    _point_latest(config.root, run)
    return run


def _monitor(run: Path, name: str, window: tuple[str, str], judged_by: dict[str, Any], on_step: OnStep) -> int:
    """Run the monitoring pipeline on a window; returns how many alerts have reached the webhook."""
    from monitoring.webhook import Receiver

    with Receiver() as receiver:
        local.run(
            monitoring.build(),
            {
                "decision_log": str(run / "decision_log"),
                "experiment": str(run / "serving" / "experiment.yaml"),
                "artifact": str(run / "artifacts" / "challenger"),
                "out": str(run / "drift" / name),
                "alert_url": receiver.url,
                "since": window[0],
                "until": window[1],
                **judged_by,
            },
            run / f"pipeline-monitor-{name}",
            lambda step, *rest: on_step(f"{step}-{name}", *rest),
        )
        return len(receiver.received)


def _world(
    config: LoopConfig, run: Path, spec: DatasetSpec, log: pd.DataFrame
) -> tuple[World, pd.DataFrame, Simulator | None]:
    """Users that were never trained on, and the log as it stands before they come online."""
    users = log["user_id"].drop_duplicates()
    held_out = sorted(users[split_of(users) == "test"])
    if not config.data:
        simulator = Simulator(SimulatorConfig(users=config.users or SimulatorConfig.users, seed=config.seed))
        online = simulator.online(held_out, config.rounds, config.seed)
        return SimulatedWorld(online, held_out, config.rounds), log, simulator
    windows = WindowTable.load(run / "windows").rows
    at = pd.MultiIndex.from_frame(windows[["user_id", "timestamp"]])
    propensity = pd.Series(logged_propensity(windows, spec), index=at)
    touchpoints = pd.MultiIndex.from_frame(log[["user_id", "timestamp"]])
    log = log[touchpoints.isin(at)]  # without what the windows leave out: the rest of a user who is taken for a bot
    found = propensity.loc[pd.MultiIndex.from_frame(log[["user_id", "timestamp"]])]
    world, history = ReplayWorld.from_log(log, found, held_out, config.rounds, spec)
    if not world.users:
        raise local.InputError(
            f"{config.data}: no held-out user has more than {config.rounds} touchpoints to replay; use fewer (--rounds)"
        )
    return world, history, None


def _write_experiment(
    run: Path, spec: DatasetSpec, limit: float, mean_cost: float, challenger: Artifact, seed: int
) -> None:
    """Write the experiment file: both arms at 50 %, a budget of `limit` currency units split between them."""
    content = {
        "name": "mtorl-vs-frequency",
        "enabled": True,
        "salt": f"mtorl-{seed}",
        "unit": "user_id",
        "layer": "channel-policy",
        "stage": "50%",
        "arms": [{"name": name, "weight": 0.5, "endpoint": "http://127.0.0.1"} for name in ("incumbent", "challenger")],
        "default_channel": challenger.model["default_channel"],
        "budgets": [{"campaign": "*", "channel": "*", "amount": round(limit, 6)}],
        "metrics": {
            "primary": f"{spec.reward.gain}_per_decision",
            "secondary": ["exposure_ratio"],
            "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": round(0.25 * mean_cost, 6)}],
        },
        "alpha": 0.05,
        "min_runtime_hours": 0,
        "owner": "ads-platform",
    }
    folder = run / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _send(
    world: World,
    url: str,
    traffic: Traffic,
    label: str,
    concurrency: int,
    history: History,
    on_step: OnStep,
) -> tuple[str, str]:
    """Drive a world through all its rounds; returns the window's start and end as ISO times."""
    total, done = len(world.users) * world.rounds, 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % 20 == 0:
            on_step(f"traffic-{label}", min(done, total - 1), total, f"{len(traffic.errors)} errors")

    since = dt.datetime.now(dt.UTC)
    on_step(f"traffic-{label}", 0, total, "")
    for turn in range(world.rounds):
        drive(world, url, turn, traffic, label, concurrency, history, advance)
    on_step(f"traffic-{label}", total, total, f"{len(traffic.errors)} errors")
    return since.isoformat(), dt.datetime.now(dt.UTC).isoformat()


@contextmanager
def _step(on_step: OnStep, name: str) -> Iterator[None]:
    on_step(name, 0, 0, "")
    yield
    on_step(name, 1, 1, "")


@contextmanager
def _started(on_step: OnStep, name: str, stack: Any) -> Iterator[Any]:
    on_step(name, 0, 0, "")
    with stack:
        on_step(name, 1, 1, "")
        yield stack


def _new_run(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    while True:  # two runs may start in one second
        run = root.resolve() / dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        try:
            run.mkdir()
            return run
        except FileExistsError:
            time.sleep(0.2)


def _keep_only_quarantine(run: Path) -> None:
    kept = run / "data" / "quarantine.csv"
    for entry in run.iterdir():
        if entry != kept.parent:
            shutil.rmtree(entry)
    if not kept.exists():
        shutil.rmtree(run)


def _point_latest(root: Path, run: Path) -> None:
    link = root / "latest"
    temporary = root / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(link)
