"""Defines the training pipelines, which lead from a log to a model version in the registry."""

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from kfp import dsl

from components.build_features.component import build_features
from components.compact.component import compact
from components.deploy.component import deploy
from components.due.component import due
from components.evaluate.component import evaluate
from components.fingerprint.component import fingerprint
from components.fit_incumbent.component import fit_incumbent
from components.gate.component import gate
from components.ingest.component import ingest
from components.install_features.component import install_features
from components.package.component import package
from components.publish.component import publish
from components.served_incumbent.component import served_incumbent
from components.smoke_test.component import smoke_test
from components.train_challenger.component import train_challenger
from components.validate.component import validate
from mtorl import __version__
from mtorl.evaluation.gate import MARGIN
from mtorl.log.opportunities import MOST_TOUCHPOINTS
from pipelines.profile import EXPERIMENT_MOUNT, LAPTOP, Profile


class Trained(NamedTuple):
    """The outputs of the training steps, as placeholders that KFP fills in during the run."""

    incumbent: Any
    challenger: Any
    model_store: Any
    decision: Any
    """The gate's decision: promote, experiment or reject."""
    lineage: Mapping[str, Any]
    """Parameters about the challenger's origin, for the steps that publish the model."""


def add_training(profile: Profile, given: SimpleNamespace) -> Trained:
    """Add the steps of a training, from reading the log to the gate, to a pipeline.

    Args:
        given: The pipeline's parameters. A step reads each remaining input from the parameter with the same name.
    """
    step, history = profile.add, profile.on_volume("trainings")
    given.snapshots = profile.on_volume("snapshots")
    seen, decisions = step(fingerprint, given).outputs, step(compact, given).output
    content, given.generation = seen["content"], seen["generation"]
    log = step(ingest, given, content=content, decisions=decisions).outputs["log"]
    validated = step(validate, given, log=log, history=history)
    features = step(build_features, given, log=log).after(validated)
    windows = features.outputs["windows"]
    step(install_features, given, definitions=features.outputs["definitions"])
    served = step(served_incumbent, given).outputs
    fitted = step(fit_incumbent, given, windows=windows, served=served["artifact"], policy=served["policy"])
    pods = {"volume": profile.folder, "pods": profile.training_pods}
    trained = step(train_challenger, given, windows=windows, **pods)
    models = {"challenger": trained.outputs["model"], "incumbent": fitted.outputs["model"]}
    evaluation = step(evaluate, given, windows=windows, **models).outputs["evaluation"]
    model_store = step(package, given, **models).outputs["model_store"]
    tested = step(smoke_test, given, model_store=model_store)
    judged = step(gate, given, evaluation=evaluation, log=log, history=history).after(tested).outputs
    lineage = {
        "evaluation": evaluation,
        "gate": judged["report"],
        "content": content,
        "decisions": decisions,
        "run_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    }
    return Trained(model_store=model_store, decision=judged["Output"], lineage=lineage, **models)


def _train_and_publish(profile: Profile, given: SimpleNamespace, pipeline: str) -> None:
    trained = add_training(profile, given)
    models = {"challenger": trained.challenger, "incumbent": trained.incumbent, "model_store": trained.model_store}
    with dsl.If(trained.decision != "reject", name="not-rejected"):
        published = profile.add(
            publish, given, keep=given.keep_versions, pipeline=pipeline, **models, **trained.lineage
        )
        profile.with_model_registry(profile.with_experiment(published))
        # A laptop has no permanent model server.
        if profile.cluster:
            # If the gate decides "experiment", a person decides about the rollout.
            with dsl.If(trained.decision == "promote", name="promote"), dsl.If(given.deploy_seconds > 0, name="deploy"):
                rolled_out = profile.add(deploy, given, published=published.output, seconds=given.deploy_seconds)
                profile.with_experiment(rolled_out)


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline `mtorl-train`, which trains in every run."""
    return _build(profile, "mtorl-train", "Trains an MTORL policy on touchpoint logs, and gates it.", when_due=False)


def build_retrain(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline `mtorl-retrain`, which trains if the last training is old or the monitor requests it."""
    what = "Trains if the monitor has requested it, or if the newest training is too old."
    return _build(profile, "mtorl-retrain", what, when_due=True)


def _build(profile: Profile, name: str, description: str, when_due: bool) -> dsl.base_component.BaseComponent:
    # A default `source` might publish a model of simulated data by mistake.
    def pipeline(
        source: str,
        dataset: str,
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        lake: str = profile.on_volume("lake"),
        own_decisions: str = profile.on_volume("lake"),
        most_touchpoints: int = MOST_TOUCHPOINTS,
        bad_rows: str = "fail",
        shrunk: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        settings: str = "",
        min_lift: float = 0.0,
        margin: float = MARGIN,
        experiment: str = EXPERIMENT_MOUNT,
        keep_versions: int = 30,
        deploy_seconds: int = 600,
        code_version: str = __version__,
        most_days: float = 7.0,
        monitor: str = profile.on_volume("monitor"),
    ):
        given = SimpleNamespace(**locals())
        with profile.exit_handler(name):
            if not when_due:
                return _train_and_publish(profile, given, name)
            asked = profile.add(due, given, history=profile.on_volume("trainings"))
            with dsl.If(asked.output == "yes", name="due"):
                _train_and_publish(profile, given, name)

    # KFP reads the parameters from the signature. Only the step `due` needs the last two.
    if not when_due:
        signature = inspect.signature(pipeline)
        pipeline.__signature__ = signature.replace(parameters=list(signature.parameters.values())[:-2])  # type: ignore[attr-defined]
    return profile.pipeline(name, description)(pipeline)
