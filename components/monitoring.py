"""What happens after traffic: the experiment's verdict, drift of the served window, alerts to people."""

from kfp.dsl import Artifact, Output

from components._base import component


@component
def verdict(
    decision_log: str,
    experiment: str,
    gain: str,
    weights: str,
    budget: float,
    since: str,
    until: str,
    result: Output[Artifact],
) -> str:
    """Compare the arms on the decision log; returns the verdict's token.

    Args:
        decision_log: Folder with decisions.parquet and outcomes.parquet.
        experiment: Path of the experiment file.
        gain: Outcome that counts, such as "click".
        weights: Parquet with decision_id and weight for a replay of a real log; empty for live traffic.
        budget: Currency units per decision in such a replay; 0 for live traffic.
        since: Start of the window (ISO time), inclusive.
        until: End of the window (ISO time), exclusive.
        result: JSON of the verdict.
    """
    import json
    from pathlib import Path

    from monitoring.verdict import verdict_of_window

    found = verdict_of_window(decision_log, experiment, gain, weights, budget, since, until)
    Path(result.path).write_text(json.dumps(found, indent=2))
    return found["verdict"]


@component
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
    """Compare a served window with the model's training reference and post alerts; returns how many were posted."""
    import json
    from pathlib import Path

    from monitoring.window import drift_of_window

    found = drift_of_window(decision_log, artifact, since, until, out, seed, alert_url)
    Path(result.path).write_text(json.dumps(found, indent=2))
    return found["alerts"]
