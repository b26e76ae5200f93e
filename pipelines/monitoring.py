"""The monitoring pipeline: decision log of a window -> verdict of the experiment, drift against training, alerts."""

from kfp import dsl

from components import monitoring


def build() -> dsl.base_component.BaseComponent:
    """Build the pipeline; nothing in it may come from a cache, since it reads what has happened meanwhile."""

    @dsl.pipeline(name="mtorl-monitor", description="Verdict, drift and alerts for one window of the decision log.")
    def mtorl_monitor(
        artifact: str,
        experiment: str,
        decision_log: str = "/mnt/mtorl/decision_log",
        out: str = "/mnt/mtorl/drift",
        alert_url: str = "",
        gain: str = "click",
        weights: str = "",
        budget: float = 0.0,
        since: str = "",
        until: str = "",
        seed: int = 7,
    ):
        answer = monitoring.verdict(
            decision_log=decision_log,
            experiment=experiment,
            gain=gain,
            weights=weights,
            budget=budget,
            since=since,
            until=until,
        )
        found = monitoring.drift(
            decision_log=decision_log,
            artifact=artifact,
            since=since,
            until=until,
            out=out,
            seed=seed,
            alert_url=alert_url,
        )
        for task in (answer, found):
            task.set_caching_options(False)

    return mtorl_monitor
