"""The pipeline of the first installation: makes all that the volume needs before the first decision.

    mtorl pipeline run bootstrap --volume /mnt/mtorl -p dataset=my-log.yaml     # here, or in a job on a cluster
    kfp run create -e mtorl -f mtorl-bootstrap.yaml dataset=...     # on Kubeflow Pipelines: docs/pipelines.md

The steps are those of a training, between two of its own, and leave on the volume

    touchpoints.parquet                        the log that features are kept up to date from
    features/                                  the feature repository
    registry/{incumbent,challenger}/first/     a model for each arm, under a name that is known beforehand

A second run publishes nothing. If the gate rejects the challenger, both arms start with the incumbent's model (an A/A
test) until a training passes the gate.
"""

from types import SimpleNamespace

from kfp import dsl

from components.first_log.component import first_log
from components.publish_first.component import publish_first
from mtorl import __version__
from mtorl.evaluation.gate import MARGIN
from mtorl.log.opportunities import MOST_TOUCHPOINTS
from pipelines.profile import LAPTOP, Profile
from pipelines.training import add_training


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    name = "mtorl-bootstrap"

    @profile.pipeline(name, "An empty volume to a log, features, and a first model of each arm.")
    def mtorl_bootstrap(
        dataset: str,
        log: str = "",
        simulate: bool = False,
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        most_touchpoints: int = MOST_TOUCHPOINTS,
        bad_rows: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        min_lift: float = 0.0,
        margin: float = MARGIN,
        settings: str = "",
        code_version: str = __version__,
    ):
        given = SimpleNamespace(**locals())
        with profile.exit_handler(name):
            given.source = profile.add(first_log, given, volume=profile.folder).outputs["Output"]
            given.lake, given.shrunk = "", "fail"
            given.own_decisions = profile.on_volume("lake")  # a setting of the step that reads the log, as each night
            trained = add_training(profile, given)
            models = {"incumbent": trained.incumbent, "challenger": trained.challenger}
            profile.add(publish_first, given, decision=trained.decision, **models, **trained.lineage)

    return mtorl_bootstrap
