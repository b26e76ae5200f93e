"""The first installation: from a touchpoint log to all that must be on the volume before the first decision.

    mtorl bootstrap --volume /mnt/mtorl --dataset my-log.yaml       # on this machine, or in a job on a cluster
    kfp run create -e mtorl -f mtorl-bootstrap.yaml dataset=...     # on Kubeflow Pipelines: docs/pipelines.md

The steps are those of a training, between two of its own, and leave on the volume

    touchpoints.parquet                        the log that features are kept up to date from
    features/                                  the feature repository
    registry/{incumbent,challenger}/first/     a model for each arm, under a name that is known beforehand

Running it again changes nothing that is there. A challenger that the gate rejects is not published: then both arms
start with the incumbent's model, which is an A/A test, until a training run passes the gate.
"""

from kfp import dsl

from components.first_log import first_log
from components.notify import notify
from components.publish_first import publish_first
from mtorl import __version__
from pipelines.profile import LAPTOP, Profile
from pipelines.training import Settings, add_training


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step, name = profile.step, "mtorl-bootstrap"

    @dsl.pipeline(
        name=name,
        description="An empty volume to a log, features, and a first model of each arm.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_bootstrap(
        dataset: str,
        log: str = "",
        simulate: bool = False,
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        most_touchpoints: int = 0,
        bad_rows: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        min_lift: float = 0.0,
        settings: str = "",
        code_version: str = __version__,
    ):
        with dsl.ExitHandler(profile.exit_step(notify(pipeline=name, runs=profile.runs))):
            put = first_log(
                volume=profile.folder,
                log=log,
                dataset=dataset,
                simulate=simulate,
                bad_rows=bad_rows,
                users=users,
                seed=seed,
                registry=registry,
            )
            source = step(put).outputs["Output"]
            given = Settings(
                source=source,
                dataset=dataset,
                feature_repo=feature_repo,
                registry=registry,
                decision_log="",
                collected=profile.on_volume("collected"),  # a setting of the step that reads the log, as each night
                most_touchpoints=most_touchpoints,
                bad_rows=bad_rows,
                shrunk="fail",
                users=users,
                seed=seed,
                epochs=epochs,
                budget_share=budget_share,
                min_lift=min_lift,
                settings=settings,
                code_version=code_version,
            )
            trained = add_training(profile, given)
            step(
                publish_first(
                    incumbent=trained.incumbent,
                    challenger=trained.challenger,
                    decision=trained.decision,
                    registry=registry,
                    **trained.lineage,
                )
            )

    return mtorl_bootstrap
