"""Decides whether a challenger may be published, from the confidence interval of its value minus the incumbent's."""

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

    The result is one of three fixed words, because kfp.local inserts the text into a condition unchanged. A quote in
    the text would skip all branches without an error.

    Args:
        report: JSON of the decision, for the lineage of the published version.
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
        print(f"{found.decision}: {found.reason}")  # for the step's log
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
