"""Drift of a window of the decision log: pick its rows, compare them with the training reference, tell people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from monitoring.alerts import drift_alerts, post
from monitoring.drift import check
from mtorl.artifact.artifact import load


def drift_of_window(
    decision_log: str, artifact: str, since: str, until: str, out: str, seed: int, alert_url: str
) -> dict[str, Any]:
    """Check the decisions of a window and post an alert for each column that drifted or broke.

    Args:
        decision_log: Folder with decisions.parquet.
        artifact: Folder of the served model's artifact; it holds the reference.
        since: Start of the window (ISO time), inclusive; empty for no bound.
        until: End of the window (ISO time), exclusive; empty for no bound.
        out: Folder for drift.html and drift.json; its name is the window's name.
        seed: Seed of the threshold calibration.
        alert_url: Alertmanager to tell; empty for none.

    Returns:
        The content of drift.json and ``alerts``, the number of alerts posted.
    """
    model = load(Path(artifact))
    current = served_context(decision_log, since, until)
    result = check(model.reference(), current, model.spec.context, out_dir=Path(out), seed=seed)
    alerts = drift_alerts(result, model.model["version"])
    if alerts and alert_url:
        post(alerts, alert_url)
    return {**result.to_dict(), "alerts": len(alerts) if alert_url else 0}


def served_context(decision_log: str, since: str, until: str) -> pd.DataFrame:
    """User and context columns of the decisions of a window."""
    rows = duckdb.execute(
        """
        select user_id, context from read_parquet(?)
        where (? = '' or event_time >= cast(? as timestamptz))
          and (? = '' or event_time < cast(? as timestamptz))
        order by event_time, decision_id
        """,
        [str(Path(decision_log) / "decisions.parquet"), since, since or None, until, until or None],
    ).df()
    context = pd.DataFrame([json.loads(text) for text in rows["context"]], index=rows.index)
    return pd.concat([rows[["user_id"]], context], axis=1)
