"""The training pipelines: touchpoint log and decisions -> features -> two policies -> evaluation -> gate -> registry.

`mtorl-train` trains whenever it runs; `mtorl-retrain` first sees whether a training is due, by age or because the
monitor asks for one, and ends at once if not. One definition for the laptop and the cluster; what differs is the
profile it is built for:

    mtorl run                      # runs mtorl-train here through kfp.local
    make compile                   # writes manifests/pipelines/compiled/*.yaml
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from kfp import dsl

from components.build_features import build_features
from components.collect import collect
from components.deploy import deploy
from components.due import due
from components.evaluate import evaluate
from components.fingerprint import fingerprint
from components.fit_incumbent import fit_incumbent
from components.gate import gate
from components.ingest import ingest
from components.install_features import install_features
from components.notify import notify
from components.package import package
from components.publish import publish
from components.served_incumbent import served_incumbent
from components.smoke_test import smoke_test
from components.train_challenger import train_challenger
from components.validate import validate
from mtorl import __version__
from pipelines.profile import EXPERIMENT_MOUNT, LAPTOP, Profile

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Settings:
    """Parameters of a training, as a pipeline has them while it is built: placeholders, each of its type.

    Attributes:
        source: Path of the raw log, or of a folder of `mtorl data build`; or "simulator".
        dataset: Name of a built-in data set description, or the path of a YAML.
        feature_repo: Folder of the feature repository.
        registry: Where models are published.
        decision_log: Of the routers; "" for none.
        collected: Where the decisions of the decision log are kept; "" for none.
        most_touchpoints: About so many a training reads at most; 0 for all.
        bad_rows: "fail" or "quarantine".
        shrunk: "fail" or "accept": what a log means that has lost rows since the newest training.
        users: The most to keep; 0 for all.
        seed: Of all that is random.
        epochs: Most epochs.
        budget_share: Budget, as a share of what always exposing would cost.
        settings: How to train, as `mtorl search` found it, in YAML; "" for the defaults.
        min_lift: What the gate's lower bound must exceed.
        code_version: Part of the cache key.
    """

    source: Any
    dataset: Any
    feature_repo: Any
    registry: Any
    decision_log: Any
    collected: Any
    most_touchpoints: Any
    bad_rows: Any
    shrunk: Any
    users: Any
    seed: Any
    epochs: Any
    budget_share: Any
    settings: Any
    min_lift: Any
    code_version: Any


@dataclass(frozen=True)
class Trained:
    """What the steps of a training give, as a pipeline has it while it is built."""

    incumbent: Any
    challenger: Any
    model_store: Any
    decision: Any
    """The gate's."""
    lineage: Mapping[str, Any]
    """Where the challenger comes from, as parameters of the steps that publish."""


def add_training(profile: Profile, given: Settings) -> Trained:
    """Add the steps of a training, from the log to the gate, to the pipeline that is being built."""
    step, history = profile.step, profile.on_volume("trainings")
    content = step(fingerprint(source=given.source, dataset=given.dataset)).output
    decisions = step(collect(decision_log=given.decision_log, collected=given.collected, source=given.source)).output
    ingested = step(
        ingest(
            source=given.source,
            dataset=given.dataset,
            bad_rows=given.bad_rows,
            users=given.users,
            seed=given.seed,
            content=content,
            collected=given.collected,
            decisions=decisions,
            most_touchpoints=given.most_touchpoints,
            code_version=given.code_version,
        )
    )
    log = ingested.outputs["log"]
    validated = step(validate(log=log, history=history, shrunk=given.shrunk))
    features = step(build_features(log=log, source=given.source, code_version=given.code_version).after(validated))
    windows = features.outputs["windows"]
    step(install_features(definitions=features.outputs["definitions"], feature_repo=given.feature_repo))
    served = step(served_incumbent(decision_log=given.decision_log, registry=given.registry)).outputs
    incumbent = step(
        fit_incumbent(
            windows=windows, served=served["artifact"], policy=served["policy"], code_version=given.code_version
        )
    ).outputs["model"]
    challenger = step(
        train_challenger(
            windows=windows,
            epochs=given.epochs,
            seed=given.seed,
            budget_share=given.budget_share,
            settings=given.settings,
            code_version=given.code_version,
            volume=profile.folder,
            pods=profile.training_pods,
        )
    ).outputs["model"]
    evaluation = step(
        evaluate(
            windows=windows,
            challenger=challenger,
            incumbent=incumbent,
            budget_share=given.budget_share,
            seed=given.seed,
            code_version=given.code_version,
        )
    ).outputs["evaluation"]
    model_store = step(package(challenger=challenger, incumbent=incumbent)).outputs["model_store"]
    tested = step(smoke_test(model_store=model_store))
    decision = step(gate(evaluation=evaluation, log=log, min_lift=given.min_lift, history=history).after(tested)).output
    lineage = {
        "evaluation": evaluation,
        "min_lift": given.min_lift,
        "content": content,
        "decisions": decisions,
        "users": given.users,
        "epochs": given.epochs,
        "seed": given.seed,
        "budget_share": given.budget_share,
        "settings": given.settings,
        "run_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    }
    return Trained(incumbent, challenger, model_store, decision, lineage)


@dataclass(frozen=True)
class Publishing:
    """Parameters of what comes after the gate, likewise.

    Attributes:
        experiment: File, or folder of files, of the running experiments.
        keep_versions: Newest versions of the registry that stay whatever needs them; 0: all.
        deploy_seconds: How long a server may take to be ready with what was published; 0: it stays in the registry.
    """

    experiment: Any
    keep_versions: Any
    deploy_seconds: Any


def _chosen(kind: type[_Kind], parameters: Mapping[str, Any]) -> _Kind:
    """Those of a pipeline's parameters that have the names of a kind's fields: KFP wants each in the signature."""
    return kind(**{field.name: parameters[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _train_and_publish(profile: Profile, given: Settings, after: Publishing, pipeline: str) -> None:
    trained = add_training(profile, given)
    with dsl.If(trained.decision == "promote", name="promote"):
        publishing = publish(
            challenger=trained.challenger,
            incumbent=trained.incumbent,
            model_store=trained.model_store,
            registry=given.registry,
            decision_log=given.decision_log,
            experiment=after.experiment,
            keep=after.keep_versions,
            pipeline=pipeline,
            **trained.lineage,
        )
        published = profile.with_model_registry(profile.with_experiment(profile.step(publishing)))
        if profile.volume:  # on a laptop there is no server that goes on
            with dsl.If(after.deploy_seconds > 0, name="deploy"):
                rolled_out = deploy(
                    published=published.output, experiment=after.experiment, seconds=after.deploy_seconds
                )
                profile.with_experiment(profile.step(rolled_out))


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline that trains whenever it runs, for a profile."""
    name = "mtorl-train"

    # Where the data come from is said for each run: whoever forgets it must not publish a simulated market's policy.
    @dsl.pipeline(
        name=name,
        description="Touchpoint logs to a gated MTORL policy.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_train(
        source: str,
        dataset: str,
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        decision_log: str = profile.on_volume("decision_log"),
        collected: str = profile.on_volume("collected"),
        most_touchpoints: int = 0,
        bad_rows: str = "fail",
        shrunk: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        settings: str = "",
        min_lift: float = 0.0,
        experiment: str = EXPERIMENT_MOUNT,
        keep_versions: int = 30,
        deploy_seconds: int = 600,
        code_version: str = __version__,
    ):
        given, after = _chosen(Settings, locals()), _chosen(Publishing, locals())
        with dsl.ExitHandler(profile.exit_step(notify(pipeline=name, runs=profile.runs))):
            _train_and_publish(profile, given, after, name)

    return mtorl_train


def build_retrain(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline that trains if a training is due, for a profile."""
    name = "mtorl-retrain"

    @dsl.pipeline(
        name=name,
        description="A training, if the monitor asks for one or the newest is too old.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_retrain(
        source: str,
        dataset: str,
        most_days: float = 7.0,
        monitor: str = profile.on_volume("monitor"),
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        decision_log: str = profile.on_volume("decision_log"),
        collected: str = profile.on_volume("collected"),
        most_touchpoints: int = 0,
        bad_rows: str = "fail",
        shrunk: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        settings: str = "",
        min_lift: float = 0.0,
        experiment: str = EXPERIMENT_MOUNT,
        keep_versions: int = 30,
        deploy_seconds: int = 600,
        code_version: str = __version__,
    ):
        given, after = _chosen(Settings, locals()), _chosen(Publishing, locals())
        with dsl.ExitHandler(profile.exit_step(notify(pipeline=name, runs=profile.runs))):
            asked = due(history=profile.on_volume("trainings"), monitor=monitor, most_days=most_days)
            with dsl.If(profile.step(asked).output == "yes", name="due"):
                _train_and_publish(profile, given, after, name)

    return mtorl_retrain
