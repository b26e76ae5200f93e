"""The repair of a period: its decisions collected anew, the definitions of features, days that are not judged yet.

    kfp run create -e mtorl -f mtorl-backfill.yaml since=2026-11-25 until=2026-11-27 source=... dataset=...

After an outage, when an export was repaired, or when a definition has changed. Whatever ends it early, and running it
again, does no harm, and outside of the period no decision changes. It trains nothing: the next training finds what it
has made, and what is as it was is not made again.
"""

from kfp import dsl

from components.build_features import build_features
from components.collect_period import collect_period
from components.fingerprint import fingerprint
from components.ingest import ingest
from components.install_features import install_features
from components.monitor import monitor
from components.notify import notify
from components.validate import validate
from mtorl import __version__
from pipelines.profile import LAPTOP, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step, name = profile.step, "mtorl-backfill"

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
        most_touchpoints: int = 0,
        bad_rows: str = "fail",
        shrunk: str = "fail",
        users: int = 0,
        seed: int = 7,
        code_version: str = __version__,
    ):
        with dsl.ExitHandler(profile.exit_step(notify(pipeline=name, runs=profile.runs))):
            decisions = step(
                collect_period(decision_log=decision_log, collected=collected, source=source, since=since, until=until)
            ).output
            log = step(
                ingest(
                    source=source,
                    dataset=dataset,
                    bad_rows=bad_rows,
                    users=users,
                    seed=seed,
                    content=step(fingerprint(source=source, dataset=dataset)).output,
                    collected=collected,
                    decisions=decisions,
                    most_touchpoints=most_touchpoints,
                    code_version=code_version,
                )
            ).outputs["log"]
            validated = step(validate(log=log, history=profile.on_volume("trainings"), shrunk=shrunk))
            features = step(build_features(log=log, source=source, code_version=code_version).after(validated))
            step(install_features(definitions=features.outputs["definitions"], feature_repo=feature_repo))
            if profile.folder:  # it goes on with what it knew at the last check
                checked = monitor(decision_log=decision_log, registry=registry, dataset=dataset, state=state)
                step(checked)

    return mtorl_backfill
