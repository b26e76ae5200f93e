"""Publishes a challenger that the gate did not reject, as a version in the registry.

A published version never changes.
"""

from kfp.dsl import Artifact, Input, Model

from components.component import component


@component("publish to the registry", cached=False)
def publish(
    challenger: Input[Model],
    incumbent: Input[Model],
    model_store: Input[Artifact],
    evaluation: Input[Artifact],
    gate: Input[Artifact],
    registry: str,
    content: str,
    decisions: str,
    users: int,
    epochs: int,
    seed: int,
    budget_share: float,
    settings: str,
    lake: str,
    experiment: str,
    keep: int,
    pipeline: str,
    run_name: str,
    run_id: str,
) -> str:
    """Copy the challenger, its archive and its lineage to the registry; returns the folder of the new version.

    Old versions that are no longer needed are deleted.

    Args:
        lake: Folder or URI of the lake. Models that have decisions in the lake are kept. Empty if no model has decided
            yet.
        experiment: File of the running experiment, or folder with several files. Models that they name are kept.
        keep: Number of newest versions to keep even if nothing needs them; 0 keeps all versions.
    """
    from pathlib import Path

    from monitoring.models_in_log import models_in_log
    from mtorl.runtime.step import step
    from serving.inference_services import services_of_pod, versions_of
    from serving.versions.kubeflow_model_registry import announce
    from serving.versions.origin import Origin
    from serving.versions.publishing import needs_experiment, prune_others, publish_approved

    with step():
        given = {"users": users, "epochs": epochs, "seed": seed, "budget_share": budget_share, "settings": settings}
        made_of = (challenger.path, incumbent.path, evaluation.path, gate.path, content, decisions)
        version = publish_approved(Origin(*made_of, given, pipeline, run_name, run_id), model_store.path, registry)
        print(announce(version))
        if words := needs_experiment(version):
            print(words)

        def in_use() -> list[tuple[str, str, bool]]:
            return [*models_in_log(lake), *versions_of(services_of_pod() or [])]

        print(prune_others(version, in_use, Path(experiment), keep))
        return str(version)
