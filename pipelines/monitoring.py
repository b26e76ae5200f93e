"""The monitoring pipeline: decision log of a period -> verdict of the experiment, drift against training, alerts."""

from kfp import dsl

from components.drift import drift
from components.verdict import verdict
from pipelines.profile import LAPTOP, MOUNT, Profile


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""
    step = profile.step

    @dsl.pipeline(name="mtorl-monitor", description="Verdict, drift and alerts for one period of the decision log.")
    def mtorl_monitor(
        artifact: str,
        experiment: str,
        decision_log: str = f"{MOUNT}/decision_log",
        out: str = f"{MOUNT}/drift",
        alert_url: str = "",
        gain: str = "click",
        weights: str = "",
        budget: float = 0.0,
        since: str = "",
        until: str = "",
        seed: int = 7,
    ):
        period = {"decision_log": decision_log, "since": since, "until": until}
        step(verdict(experiment=experiment, gain=gain, weights=weights, budget=budget, **period))
        step(drift(artifact=artifact, out=out, seed=seed, alert_url=alert_url, **period))

    return mtorl_monitor
