"""Exports the state of experiments as Prometheus gauges.

An unknown value is not exported as 0, because a 0 could trigger an alert.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.experiments.document import View
from monitoring.gauge_table import Sample, gauges


def exposition(views: Sequence[View], leads: bool | None = None) -> bytes:
    """Return all gauges in Prometheus' text format.

    Args:
        leads: Whether this operator is the leader; None if the program is not an operator.
    """
    registry = CollectorRegistry()
    registry.register(ExperimentCollector(lambda: views))
    if leads is not None:
        Gauge("mtorl_operator_leads", "1: this operator is the leader", registry=registry).set(leads)
    return generate_latest(registry)


class ExperimentCollector(Collector):
    """A Prometheus collector that calls `views` at each scrape, so `views` must not read the log."""

    def __init__(self, views: Callable[[], Sequence[View]]) -> None:
        self._views = views

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each gauge with its samples."""
        # Prometheus rejects duplicate series, so export only the first of two experiments with the same name.
        views = {view["name"]: view for view in reversed(self._views())}
        samples = ((g, (name, *labels), value) for name, view in views.items() for g, labels, value in _samples(view))
        yield from gauges("mtorl_experiment_", _GAUGES, samples)


def _samples(view: View) -> Iterator[Sample]:
    verdict, settled = view["verdict"], view["settled"]
    yield "stage", (view["phase"],), 1.0
    yield "looked_timestamp_seconds", (), datetime.fromisoformat(view["looked"]).timestamp()
    yield "unreadable", (), float(view["problem"] is not None)
    yield "switched_on", (), float(view["enabled"])
    for condition in ("held", "harm"):
        yield "attention", (condition,), float(view["advice"]["condition"] == condition)
    if settled is not None:
        yield "settled", (settled["reason"],), float(settled["done"])
    for arm in view["plan"]["arms"]:
        yield "share_ratio", (arm["name"],), arm["share"]
    if verdict is not None:
        yield "verdict", (verdict["verdict"],), 1.0
        yield "srm_p_value", (), verdict["srm_p"]
    for name, found in verdict["arms"].items() if verdict is not None else ():
        yield "users", (name,), found["users"]
    for name, found in verdict["challengers"].items() if verdict is not None else ():
        of = (name, view["plan"]["metrics"]["primary"], view["unit"])
        low, high = found["lift_ci"]
        yield from (("lift", of, found["lift"]), ("lift_lower", of, low), ("lift_upper", of, high))
        for check in found["guardrails"]:
            yield "guardrail_breached", (name, check["name"]), float(check["state"] == "breached")
    for spend in view["spend"]:
        # Campaigns must not become labels, so export only the account of all campaigns and channels.
        if (spend["campaign"], spend["channel"]) == ("*", "*"):
            account = (spend["arm"], spend["period"], view["currency"])
            yield "spent", account, spend["spent"]
            yield "budget", account, spend["limit"]


_OF = ("experiment",)
_ARM = ("experiment", "arm")
_CHECK = ("experiment", "arm", "metric")
_LIFT = ("experiment", "arm", "metric", "unit")
_MONEY = ("experiment", "arm", "period", "currency")
_GAUGES: dict[str, tuple[str, Sequence[str]]] = {
    "stage": ("1 for the present stage of the experiment, or the way it ended", ("experiment", "stage")),
    "looked_timestamp_seconds": ("Time at which the log was read for these figures", _OF),
    "unreadable": ("1 while the experiment's file or log can't be read", _OF),
    "switched_on": ("0 while the kill switch is on", _OF),
    "attention": ("1 while a person must act, by condition: held or harm", ("experiment", "condition")),
    "settled": (
        "1 once the incumbent's model server serves the promoted, or rolled back, model",
        ("experiment", "reason"),
    ),
    "verdict": ("1 for the present verdict", ("experiment", "verdict")),
    "srm_p_value": ("p-value of the sample-ratio mismatch, valid at every look", _OF),
    "share_ratio": ("Present share of the users of an arm", _ARM),
    "users": ("Users who count in the verdict; users who moved between arms count in both", _ARM),
    "lift": ("Difference of challenger and incumbent in the primary metric", _LIFT),
    "lift_lower": ("Lower end of the lift's always-valid interval", _LIFT),
    "lift_upper": ("Upper end of the lift's always-valid interval", _LIFT),
    "guardrail_breached": ("1 while even the smallest plausible harm is above the guardrail's margin", _CHECK),
    "spent": ("Spend in the present period of the budget; arm * is all arms", _MONEY),
    "budget": ("Limit of the spend in the present period", _MONEY),
}
