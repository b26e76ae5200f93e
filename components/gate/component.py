"""The decision whether a challenger may be published: by the lower bound of what it is worth more."""

from kfp.dsl import Artifact, Dataset, Input

from components.component import component


@component("gate", cached=False)
def gate(evaluation: Input[Artifact], log: Input[Dataset], min_lift: float, history: str) -> str:
    """Return "promote" or "reject", and note what this training read and what became of it.

    One of two fixed words, since kfp.local puts the text into a condition as it is, and a quote in it would skip both
    branches without an error.
    """
    import json
    from datetime import UTC, datetime
    from pathlib import Path

    from mtorl.evaluation.gate import gate as judge
    from mtorl.log.trainings import LogFacts, Training, add
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import run_id, step

    with step():
        value = json.loads(Path(evaluation.path).read_text())["value"]
        decision, reason = judge(value, min_lift)
        print(f"{decision}: {reason}")  # the step's log is where people look why
        if history:
            training = Training(
                at=datetime.now(UTC),
                run=run_id(),
                log=LogFacts.of(located(log.path)),
                decision=decision,
                reason=reason,
                lift=value.get("difference"),
                lift_ci=value.get("difference_ci"),
            )
            add(Path(history), training)
        return decision
