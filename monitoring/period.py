"""What the monitoring pipeline and the command line call for a period of the decision log: its verdict, its drift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monitoring.alerts import drift_alerts, post
from monitoring.decision_log import DecisionLog, Period
from monitoring.drift import check
from monitoring.verdict import verdict_from_log
from mtorl.artifact.artifact import load
from mtorl.experiment.experiment import Experiment


def verdict_of_period(
    decision_log: str, experiment: str, period: Period, gain: str, weights: str, budget: float
) -> dict[str, Any]:
    """Compare the arms on the decisions of a period.

    Args:
        decision_log: Folder with decisions.parquet and outcomes.parquet.
        experiment: Path of the experiment file.
        period: Decisions that count.
        gain: Outcome whose sum is the gain.
        weights: Parquet with decision_id and weight of a replay; empty for live traffic.
        budget: Currency units per decision in such a replay; 0 for live traffic.

    Returns:
        See `monitoring.verdict.verdict_from_log`.
    """
    log = DecisionLog.in_folder(decision_log, period, Path(weights) if weights else None)
    return verdict_from_log(log, Experiment.load(experiment), gain, budget_per_decision=budget or None)


def drift_of_period(
    decision_log: str, artifact: str, period: Period, out: str, seed: int, alert_url: str
) -> dict[str, Any]:
    """Compare what the policy read in a period with its training data, and post an alert for each bad column.

    Args:
        decision_log: Folder with decisions.parquet.
        artifact: Folder of the served model's artifact; it holds the reference.
        period: Decisions that are checked.
        out: Folder for drift.html and drift.json; its name is the period's name.
        seed: Seed of the threshold calibration.
        alert_url: Alertmanager to tell; empty for none.

    Returns:
        The content of drift.json and ``alerts``, the number of alerts posted.
    """
    model = load(Path(artifact))
    current = DecisionLog.in_folder(decision_log, period).context()
    result = check(model.reference(), current, model.spec.context, out_dir=Path(out), seed=seed)
    alerts = drift_alerts(result, model.model["version"])
    if alerts and alert_url:
        post(alerts, alert_url)
    return {**result.to_dict(), "alerts": len(alerts) if alert_url else 0}
