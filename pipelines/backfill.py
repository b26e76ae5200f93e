"""The repair of a period: its decisions collected anew, the definitions of features, days that are not judged yet.

    kfp run create -e mtorl -f mtorl-backfill.yaml since=2026-11-25 until=2026-11-27 source=... dataset=...

For an outage, an export that was repaired, or a changed definition. It is idempotent, can be interrupted, and changes
no decision outside the period. It trains nothing: the next training uses what it has made.
"""

from types import SimpleNamespace

from kfp import dsl

from components.build_features.component import build_features
from components.collect_period.component import collect_period
from components.fingerprint.component import fingerprint
from components.ingest.component import ingest
from components.install_features.component import install_features
from components.monitor.component import monitor
from components.validate.component import validate
from mtorl import __version__
from mtorl.log.opportunities import MOST_TOUCHPOINTS
from pipelines.profile import LAPTOP, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    name = "mtorl-backfill"

    # The parameters of the log are those of mtorl-train, so that one run uses what the other has made.
    @dsl.pipeline(
        name=name,
        description="Decisions of a period collected anew, definitions of features, and days not judged yet.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_backfill(
        since: str,
        until: str,
        source: str,
        dataset: str,
        feature_repo: str = profile.on_volume("features"),
        registry: str = profile.on_volume("registry"),
        decision_log: str = profile.on_volume("decision_log"),
        collected: str = profile.on_volume("collected"),
        state: str = profile.on_volume("monitor"),
        most_touchpoints: int = MOST_TOUCHPOINTS,
        bad_rows: str = "fail",
        shrunk: str = "fail",
        users: int = 0,
        seed: int = 7,
        code_version: str = __version__,
    ):
        given, step = SimpleNamespace(**locals(), snapshots=profile.on_volume("snapshots")), profile.add
        with profile.exit_handler(name):
            decisions, seen = step(collect_period, given).output, step(fingerprint, given).outputs
            given.lost = seen["lost"]
            log = step(ingest, given, content=seen["content"], decisions=decisions).outputs["log"]
            validated = step(validate, given, log=log, history=profile.on_volume("trainings"))
            features = step(build_features, given, log=log).after(validated)
            step(install_features, given, definitions=features.outputs["definitions"])
            if profile.folder:  # it goes on with what it knew at the last check
                step(monitor, given)

    return mtorl_backfill
