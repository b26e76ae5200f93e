"""Decides whether a challenger may be published.

The decision depends on the confidence interval of the challenger's value minus the incumbent's value.
"""

from kfp.dsl import Artifact, Dataset, Input, Output

from components.component import component


@component("gate", cached=False)
def gate(
    evaluation: Input[Artifact],
    log: Input[Dataset],
    min_lift: float,
    margin: float,
    history: str,
    report: Output[Artifact],
) -> str:
    """Return "promote", "experiment" or "reject", and record the data and the result of this training.

    The result is one of three fixed words, because kfp.local inserts it unchanged into a condition of the pipeline. If
    it contained a quote, all branches would be skipped without an error.

    Args:
        report: JSON of the decision, which becomes part of the lineage of the published version.
    """
    import json
    from datetime import UTC, datetime
    from pathlib import Path

    from mtorl.evaluation.gate import gate_report
    from mtorl.log.trainings import LogFacts, Training, add
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import run_id, step

    with step():
        evaluated = json.loads(Path(evaluation.path).read_text())
        found = gate_report(evaluated, min_lift, margin)
        print(f"{found.decision}: {found.reason}")
        Path(report.path).write_text(found.model_dump_json(indent=2))
        if history:
            training = Training(
                at=datetime.now(UTC),
                run=run_id(),
                log=LogFacts.of(located(log.path)),
                decision=found.decision,
                reason=found.reason,
                lift=evaluated["value"]["difference"],
                lift_ci=evaluated["value"]["difference_ci"],
            )
            add(Path(history), training)
        return found.decision
