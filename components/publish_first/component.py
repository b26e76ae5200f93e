"""Publishes a first model for each arm. The model servers wait for these models under a fixed name."""

from kfp.dsl import Artifact, Input, Model

from components.component import component


@component("publish the first models", cached=False)
def publish_first(
    incumbent: Input[Model],
    challenger: Input[Model],
    evaluation: Input[Artifact],
    gate: Input[Artifact],
    decision: str,
    registry: str,
    content: str,
    decisions: str,
    users: int,
    epochs: int,
    seed: int,
    budget_share: float,
    settings: str,
    run_name: str,
    run_id: str,
) -> str:
    """Publish a first model for each arm that has none; returns a summary in words.

    If the gate has rejected the challenger, both arms start with the model of the incumbent, which is an A/A test.

    Args:
        decision: Decision of the gate: "promote", "experiment" or "reject".
    """
    from mtorl.runtime.step import step
    from serving.versions.origin import Origin
    from serving.versions.publishing import publish_first_models

    with step():
        given = {"users": users, "epochs": epochs, "seed": seed, "budget_share": budget_share, "settings": settings}
        made_of = (challenger.path, incumbent.path, evaluation.path, gate.path, content, decisions)
        origin = Origin(*made_of, given, "mtorl-bootstrap", run_name, run_id)
        said = publish_first_models(origin, decision, registry)
        print(said)
        return said
