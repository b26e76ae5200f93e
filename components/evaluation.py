"""Offline evaluation on users never trained on, the gate, and packaging for TorchServe."""

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components._base import component


@component
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
    """Score both policies on test users: heads, off-policy value at equal budget, budget curve."""
    import json
    from pathlib import Path

    from mtorl.evaluation.offline import evaluate_offline

    result = evaluate_offline(windows.path, challenger.path, incumbent.path, budget_share, seed)
    Path(evaluation.path).write_text(json.dumps(result, indent=2))
    figures = {k: v for k, v in result["challenger"].items() if isinstance(v, float)}
    for name, value in figures.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(figures))


@component
def gate(evaluation: Input[Artifact], min_lift: float) -> str:
    """Return "promote" or "reject" by the lower bound of challenger minus incumbent; a token, so dsl.If is safe."""
    from mtorl.evaluation.offline import gate_from_file

    return gate_from_file(evaluation.path, min_lift)


@component
def package(challenger: Input[Model], incumbent: Input[Model], model_store: Output[Artifact]):
    """Pack both artifacts as incumbent.mar and challenger.mar."""
    from pathlib import Path

    from serving.archive import package as archive

    for name, artifact in (("incumbent", incumbent), ("challenger", challenger)):
        archive(Path(artifact.path), name, Path(model_store.path))


@component
def publish(challenger: Input[Model], model_store: Input[Artifact], registry: str) -> str:
    """Copy an approved challenger to its immutable place in the registry; returns that place."""
    from serving.registry import publish as run

    return run(challenger.path, model_store.path, registry)
