"""Writes summary.json, which contains the figures of a run: docs/summary.md."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.collect.training_log import Learnable
from monitoring.decision_log import DecisionLog
from monitoring.verdict.verdict import units_in
from monitoring.watch.state import State
from mtorl.artifact.lineage import GateReport
from mtorl.log.dataset import counted_gain
from mtorl.runtime.files import replacing
from pipelines.local import StepResult
from pipelines.loop.monitored_days import STATE_FOLDER, figures_of
from pipelines.loop.online import Served, Trained
from pipelines.loop.run_folder import LAKE
from pipelines.loop.traffic import Traffic


@dataclass(frozen=True)
class Finished:
    """The results of a finished run.

    Attributes:
        steps: Results of the pipeline steps, by name.
        monitored: State of the monitor after the "clean" and after the "shifted" traffic.
        true_lift: Values of both arms in the simulator. None if the log is real.
        learned: Amount of new data for the next training. None if the traffic is a replay.
        seconds_of_step: Duration of each step in seconds.
    """

    trained: Trained
    steps: dict[str, StepResult]
    served: Served
    monitored: dict[str, State]
    true_lift: dict[str, float] | None
    learned: Learnable | None
    seconds_of_step: dict[str, float]
    seconds: float


def write_summary(run: Finished) -> None:
    """Write summary.json atomically."""
    with replacing(run.trained.folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summarise(run), indent=2, default=float) + "\n")


def summarise(run: Finished) -> dict[str, Any]:
    """Collect the figures of a run from its outputs."""
    config, folder = run.trained.config, run.trained.folder
    evaluation = json.loads((folder / "evaluation.json").read_text())
    gate = GateReport.model_validate_json((folder / "gate.json").read_text())
    challenger = json.loads((folder / "artifacts" / "challenger" / "metrics.json").read_text())
    ingested = json.loads((folder / "data" / "ingest.json").read_text())
    verdict = json.loads(run.steps["verdict"].paths["result"].read_text())
    # The step `verdict` gets the gain as a text without units.
    verdict |= units_in(verdict["metric"], verdict["units"], counted_gain(run.trained.spec))
    return {
        "schema_version": 1,
        "dataset": run.trained.spec.name,
        "source": config.data or "built-in simulator",
        "outcomes": "simulated" if run.true_lift else "rejection-sampling replay of held-out users",
        "rows": ingested["rows"],
        "users": ingested["users"],
        "windows": run.steps["build-features"].values["Output"],
        "quarantined": {"rows": ingested["quarantined"], "faults": ingested["faults"]},
        "conversions": ingested["conversions"],
        "train": {key: challenger[key] for key in ("seconds", "best_epoch", "epochs", "foresight", "looks_ahead")},
        "offline": evaluation["challenger"],
        "offline_incumbent": evaluation["incumbent"],
        "gate": {
            **gate.model_dump(include={"decision", "reason", "code", "values", "min_lift", "margin"}),
            "lower_bound": evaluation["value"]["difference_ci"][0],
            **evaluation["value"],
        },
        "serving": _serving(folder, run.served),
        "budget": _budget(folder, run.trained.replays),
        # The experiment file has a ramp instead of a stage.
        "experiment": {**verdict, "stage": run.served.ramp.last_stage, **(run.true_lift or {"true_lift": None})},
        "stages": {**run.served.ramp.summary(), "after_promotion": _after_promotion(folder, run.served)},
        "next_night": asdict(run.learned) if run.learned else None,
        "monitor": {
            "state": STATE_FOLDER,
            **{name: figures_of(folder, state) for name, state in run.monitored.items()},
        },
        "artifacts": {
            "incumbent": "artifacts/incumbent",
            "challenger": "artifacts/challenger",
            "lake": LAKE,
            "experiment": "serving.yaml",
            "history": "serving/history.jsonl",
            "report": "report.html",
        },
        "steps": _steps(run),
        "seconds": round(run.seconds, 1),
    }


def _steps(run: Finished) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for name, seconds in run.seconds_of_step.items():
        steps[name] = {"seconds": round(seconds, 1)}
        if result := run.steps.get(name):
            steps[name] |= {"values": result.values, "metrics": result.metrics}
    return steps


def _serving(run: Path, served: Served) -> dict[str, Any]:
    period = served.clean
    everything = [traffic for traffic in (served.clean, served.shifted, served.promoted) if traffic]
    (fallbacks,) = _decisions(run, period, "count(*) filter (fallback_reason is not null)")
    milliseconds = 1000 * np.array(period.latencies)
    return {
        "decisions": len(period.latencies),
        "opportunities": sum(traffic.done for traffic in everything),
        "errors": sum(len(traffic.errors) for traffic in everything),
        "refused": sum(traffic.refused for traffic in everything),
        "fallbacks": fallbacks,
        "p50_ms": round(float(np.quantile(milliseconds, 0.5)), 2),
        "p99_ms": round(float(np.quantile(milliseconds, 0.99)), 2),
    }


def _after_promotion(run: Path, served: Served) -> dict[str, Any] | None:
    if served.promoted is None:
        return None
    moves = served.ramp.folder.events()
    (digest,) = {event.incumbent["model_digest"] for event in moves if event.incumbent is not None}
    decisions, incumbent, promoted, fallbacks = _decisions(
        run,
        served.promoted,
        "count(*), count(*) filter (arm = 'incumbent'), count(*) filter (model_digest = ?), "
        "count(*) filter (fallback_reason is not null)",
        digest,
    )
    return {"decisions": decisions, "incumbent": incumbent, "promoted_model": promoted, "fallbacks": fallbacks}


def _decisions(run: Path, period: Traffic, what: str, *values: str) -> tuple[int, ...]:
    with DecisionLog.of(run / LAKE).opened() as db:
        found: tuple[int, ...] | None = db.execute(
            f"SELECT {what} FROM decision_log WHERE event_time BETWEEN ? AND ?", [*values, period.since, period.until]
        ).fetchone()
    assert found is not None
    return found


def _budget(run: Path, replays: bool) -> dict[str, dict[str, float | None]]:
    """In a replay, `spent_share` is None, because the limit has no effect."""
    from mtorl.experiment.arm import ALL_ARMS
    from serving.ledger.sqlite_ledger import SqliteLedger

    arms: dict[str, dict[str, float]] = {}
    for balance in SqliteLedger(run / "serving" / "ledger.sqlite").balances():
        if balance.arm == ALL_ARMS:
            continue
        name = balance.arm.rpartition("/")[2]
        arm = arms.setdefault(name, dict.fromkeys(("limit", "spent", "reserved", "excess", "overspent"), 0.0))
        arm["limit"] += balance.limit
        arm["spent"] += balance.spent
        arm["reserved"] += balance.reserved
        arm["excess"] += balance.excess
        arm["overspent"] += max(0.0, balance.spent + balance.excess - balance.limit)
    return {
        name: {**arm, "spent_share": None if replays or not arm["limit"] else arm["spent"] / arm["limit"]}
        for name, arm in arms.items()
    }
