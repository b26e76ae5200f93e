"""The monitoring pipeline: decision log -> verdict of the experiments, a check of the monitor."""

from kfp import dsl

from components.monitor import monitor
from components.notify import notify
from components.verdict import verdict
from pipelines.profile import EXPERIMENT_MOUNT, LAPTOP, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step, name = profile.step, "mtorl-monitor"

    @dsl.pipeline(
        name=name,
        description="Verdict on the experiments so far; a check of the monitor.",
        pipeline_config=profile.pipeline_config(),
    )
    def mtorl_monitor(
        registry: str = profile.on_volume("registry"),
        experiment: str = EXPERIMENT_MOUNT,
        decision_log: str = profile.on_volume("decision_log"),
        dataset: str = "",
        state: str = profile.on_volume("monitor"),
        gain: str = "click",
        weights: str = "",
        budget: float = 0.0,
        since: str = "",
        until: str = "",
    ):
        with dsl.ExitHandler(profile.exit_step(notify(pipeline=name, runs=profile.runs))):
            period = {"decision_log": decision_log, "since": since, "until": until}
            judged = verdict(experiment=experiment, gain=gain, weights=weights, budget=budget, **period)
            profile.with_experiment(step(judged))
            if profile.folder:  # it goes on with what it knew at the last check
                checked = monitor(decision_log=decision_log, registry=registry, dataset=dataset, state=state)
                step(checked)

    return mtorl_monitor
