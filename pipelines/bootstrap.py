"""Defines the pipeline of the first installation, which creates the log, features and models on an empty volume.

If the gate rejects the challenger, both arms start with the incumbent's model.
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
    """Build the bootstrap pipeline."""
    name = "mtorl-bootstrap"

    @profile.pipeline(name, "Creates a log, features and a first model of each arm on an empty volume.")
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
            # Train on the router's own decisions too, as the nightly training does.
            given.own_decisions = profile.on_volume("lake")
            trained = add_training(profile, given)
            models = {"incumbent": trained.incumbent, "challenger": trained.challenger}
            profile.add(publish_first, given, decision=trained.decision, **models, **trained.lineage)

    return mtorl_bootstrap
