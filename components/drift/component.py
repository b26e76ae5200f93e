"""Whether the served context still looks like what the model was trained on."""

from kfp.dsl import Artifact, Output

from components.component import component


@component("drift", cached=False)
def drift(
    decision_log: str,
    artifact: str,
    registry: str,
    since: str,
    until: str,
    hours: int,
    out: str,
    seed: int,
    result: Output[Artifact],
) -> int:
    """Compare the decisions of a period with the model's training reference; returns how many columns differ.

    Args:
        decision_log: Folder with decisions.parquet.
        artifact: Artifact folder of the served model; it holds the reference. Empty: the one that took the newest
            decision, from the registry.
        registry: Root folder of the registry.
        since: Start of the period (ISO time), inclusive; empty for no bound.
        until: End of the period (ISO time), exclusive; empty for no bound.
        hours: Length of the period, up to now, where neither bound is given; 0 for the whole log.
        out: Folder for drift.html and drift.json.
        seed: Seed of the threshold calibration.
        result: JSON of the comparison.
    """
    import json
    from functools import partial
    from pathlib import Path

    from monitoring.period import PeriodError, drift_of_period, nothing_in, period_of, served_model
    from mtorl.artifact.artifact import ArtifactError
    from mtorl.log.touchpoints import LogError
    from mtorl.runtime.step import step
    from serving.registry import folder_of

    with step(PeriodError, ArtifactError, LogError):
        period = period_of(since, until, hours)
        model = artifact or str(served_model(decision_log, period, partial(folder_of, Path(registry))))
        compared = drift_of_period(decision_log, model, period, out, seed)
        if not compared["rows"]:
            raise PeriodError(nothing_in(decision_log, period))
        Path(result.path).write_text(json.dumps(compared, indent=2))
        return len(compared["detected_columns"])
