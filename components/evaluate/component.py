"""Evaluates challenger and incumbent on test users: how good their predictions are, and what their policies earn.

The value of both policies is estimated from the log, for the same budget.
"""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.component import component


@component("evaluate offline", reads_log=True)
def evaluate(
    windows: Input[Dataset],
    challenger: Input[Model],
    incumbent: Input[Model],
    budget_share: float,
    seed: int,
    code_version: str,
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
):
    """Evaluate both policies on test users, whom no model was trained on.

    Args:
        budget_share: Budget of both policies, as a share of the cost of always exposing. If the incumbent has no
            artifact, the budget is the money that the incumbent has actually spent.
        metrics: Figures of the challenger for the page of the pipeline run, and the share of the test users that was
            read.
    """
    import json
    from pathlib import Path

    from mtorl.baselines.lightgbm import fit_outcomes
    from mtorl.evaluation.offline import evaluate_offline
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import step

    with step():
        data = str(located(windows.path))
        result = evaluate_offline(data, challenger.path, incumbent.path, budget_share, seed, fit_outcomes)
        Path(evaluation.path).write_text(json.dumps(result, indent=2))
        figures = {name: value for name, value in result["challenger"].items() if isinstance(value, float)}
        figures["test_share"] = result["test_share"]
        for name, value in figures.items():
            metrics.log_metric(name, value)
        # The cache of kfp keeps only outputs that have a file.
        Path(metrics.path).write_text(json.dumps(figures))
