"""Defines the monitoring pipeline, which judges experiments and checks the traffic for harm and drift."""

from types import SimpleNamespace

from kfp import dsl

from components.monitor.component import monitor
from components.verdict.component import verdict
from pipelines.profile import EXPERIMENT_MOUNT, LAPTOP, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the monitoring pipeline."""
    name = "mtorl-monitor"

    @profile.pipeline(name, "Judges the running experiments, and checks decisions and outcomes for drift and harm.")
    def mtorl_monitor(
        registry: str = profile.on_volume("registry"),
        experiment: str = EXPERIMENT_MOUNT,
        lake: str = profile.on_volume("lake"),
        dataset: str = "",
        state: str = profile.on_volume("monitor"),
        gain: str = "click",
        weights: str = "",
        budget: float = 0.0,
        since: str = "",
        until: str = "",
    ):
        given = SimpleNamespace(**locals())
        with profile.exit_handler(name):
            profile.with_experiment(profile.add(verdict, given))
            # The monitor needs a persistent folder for its state.
            if profile.folder:
                profile.add(monitor, given)

    return mtorl_monitor
