"""Whether the served context still looks like what the model was trained on, and a message to people if not."""

from kfp.dsl import Artifact, Output

from components.component import component


@component("drift", cached=False)
def drift(
    decision_log: str,
    artifact: str,
    since: str,
    until: str,
    out: str,
    seed: int,
    alert_url: str,
    result: Output[Artifact],
) -> int:
    """Compare the decisions of a period with the model's training reference; returns how many alerts were posted.

    Args:
        decision_log: Folder with decisions.parquet.
        artifact: Artifact folder of the served model; it holds the reference.
        since: Start of the period (ISO time), inclusive; empty for no bound.
        until: End of the period (ISO time), exclusive; empty for no bound.
        out: Folder for drift.html and drift.json.
        seed: Seed of the threshold calibration.
        alert_url: Alertmanager to tell; empty for none.
        result: JSON of the comparison.
    """
    import json
    from pathlib import Path

    from monitoring.decision_log import Period
    from monitoring.period import drift_of_period

    compared = drift_of_period(decision_log, artifact, Period(since, until), out, seed, alert_url)
    Path(result.path).write_text(json.dumps(compared, indent=2))
    return compared["alerts"]
