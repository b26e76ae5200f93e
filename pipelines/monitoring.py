"""The monitoring pipeline: decision log -> verdict of the experiments, drift of a period against training."""

from kfp import dsl

from components.drift import drift
from components.notify import notify
from components.verdict import verdict
from pipelines.profile import EXPERIMENT_MOUNT, LAPTOP, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step, name = profile.step, f"mtorl-monitor{profile.suffix}"

    @dsl.pipeline(
        name=name,
        description="Verdict on the experiments so far; drift in one period of the decision log.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_monitor(
        artifact: str = "",
        registry: str = profile.on_volume("registry"),
        experiment: str = EXPERIMENT_MOUNT,
        decision_log: str = profile.on_volume("decision_log"),
        out: str = profile.on_volume("drift/monitor"),
        gain: str = "click",
        weights: str = "",
        budget: float = 0.0,
        hours: int = 24,
        since: str = "",
        until: str = "",
        seed: int = 7,
    ):
        with dsl.ExitHandler(step(notify(pipeline=name, runs=profile.runs))):
            period = {"decision_log": decision_log, "since": since, "until": until}
            judged = verdict(experiment=experiment, gain=gain, weights=weights, budget=budget, **period)
            profile.with_experiment(step(judged))
            step(drift(artifact=artifact, registry=registry, out=out, seed=seed, hours=hours, **period))

    return mtorl_monitor
