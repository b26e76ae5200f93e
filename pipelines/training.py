"""The training pipeline: touchpoint log and decisions -> features -> two policies -> evaluation -> gate -> registry.

One definition for the laptop and the cluster; what differs is the profile it is built for:

    mtorl run                      # runs it here through kfp.local
    mtorl compile                  # writes manifests/pipelines/mtorl-train.yaml, and -gpu.yaml
"""

from kfp import dsl

from components.build_features import build_features
from components.collect import collect
from components.evaluate import evaluate
from components.fingerprint import fingerprint
from components.fit_incumbent import fit_incumbent
from components.gate import gate
from components.ingest import ingest
from components.install_features import install_features
from components.package import package
from components.publish import publish
from components.served_incumbent import served_incumbent
from components.train_challenger import train_challenger
from mtorl import __version__
from pipelines.profile import LAPTOP, MOUNT, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step = profile.step

    # Where the data come from is said for each run: whoever forgets it must not publish a simulated market's policy.
    @dsl.pipeline(
        name=f"mtorl-train{profile.suffix}",
        description="Touchpoint logs to a gated MTORL policy.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_train(
        source: str,
        dataset: str,
        feature_repo: str = f"{MOUNT}/features",
        registry: str = f"{MOUNT}/registry",
        decision_log: str = f"{MOUNT}/decision_log",
        collected: str = f"{MOUNT}/collected",
        most_touchpoints: int = 0,
        bad_rows: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        min_lift: float = 0.0,
        code_version: str = __version__,
    ):
        content = step(fingerprint(source=source, dataset=dataset)).output
        decisions = step(collect(decision_log=decision_log, collected=collected)).output
        log = step(
            ingest(
                source=source,
                dataset=dataset,
                bad_rows=bad_rows,
                users=users,
                seed=seed,
                content=content,
                collected=collected,
                decisions=decisions,
                most_touchpoints=most_touchpoints,
                code_version=code_version,
            )
        ).outputs["log"]
        features = step(build_features(log=log, code_version=code_version))
        windows = features.outputs["windows"]
        step(install_features(definitions=features.outputs["definitions"], feature_repo=feature_repo))
        served = step(served_incumbent(decision_log=decision_log, registry=registry)).outputs
        incumbent = step(
            fit_incumbent(
                windows=windows, served=served["artifact"], policy=served["policy"], code_version=code_version
            )
        ).outputs["model"]
        challenger = step(
            train_challenger(
                windows=windows,
                epochs=epochs,
                seed=seed,
                budget_share=budget_share,
                code_version=code_version,
                volume=MOUNT if profile.volume else "",
            )
        ).outputs["model"]
        evaluation = step(
            evaluate(
                windows=windows,
                challenger=challenger,
                incumbent=incumbent,
                budget_share=budget_share,
                seed=seed,
                code_version=code_version,
            )
        ).outputs["evaluation"]
        decision = step(gate(evaluation=evaluation, min_lift=min_lift)).output
        model_store = step(package(challenger=challenger, incumbent=incumbent)).outputs["model_store"]
        with dsl.If(decision == "promote", name="promote"):
            step(publish(challenger=challenger, model_store=model_store, registry=registry))

    return mtorl_train
