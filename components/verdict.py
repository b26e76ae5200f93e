"""What the experiment says: the arms compared on the decision log of a period."""

from kfp.dsl import Artifact, Output

from components.component import component


@component("verdict", cached=False)
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
    """Compare the arms on the decision log; returns the verdict in one word.

    Args:
        decision_log: Folder with decisions.parquet and outcomes.parquet.
        experiment: Path of the experiment file.
        gain: Outcome that counts, such as "click".
        weights: Parquet with decision_id and weight for a replay of a real log; empty for live traffic.
        budget: Currency units per decision in such a replay; 0 for live traffic.
        since: Start of the period (ISO time), inclusive.
        until: End of the period (ISO time), exclusive.
        result: JSON of the verdict.
    """
    import json
    from pathlib import Path

    from monitoring.decision_log import Period
    from monitoring.period import verdict_of_period

    compared = verdict_of_period(decision_log, experiment, Period(since, until), gain, weights, budget)
    Path(result.path).write_text(json.dumps(compared, indent=2))
    return compared["verdict"]
