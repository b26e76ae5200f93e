"""The facts of experiments as Prometheus gauges, from the same documents as the page.

    REGISTRY.register(ExperimentCollector(lambda: views))        # with other metrics
    text = exposition(views)                                     # or alone, as `/metrics` of the page

Labels are names from experiment files, never a user or a campaign. An unknown value has no series, so that an alert
does not fire on a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.experiments.document import View

Sample = tuple[tuple[str, ...], float | None]


def exposition(views: Sequence[View], leads: bool | None = None) -> bytes:
    """All gauges in Prometheus' text format.

    Args:
        leads: Whether the operator that exports them is the leader; None: the exporter is no operator.
    """
    registry = CollectorRegistry()
    registry.register(ExperimentCollector(lambda: views))
    if leads is not None:
        Gauge("mtorl_operator_leads", "1: this operator is the leader", registry=registry).set(leads)
    return generate_latest(registry)


class ExperimentCollector(Collector):
    """Collects the gauges at each scrape.

    Args:
        views: Returns the documents without reading a log: Prometheus waits for it.
    """

    def __init__(self, views: Callable[[], Sequence[View]]) -> None:
        self._views = views

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Each gauge with a sample of every experiment that has one."""
        views = self._views()
        for name, help_, labels, samples in _GAUGES:
            gauge = GaugeMetricFamily(f"mtorl_experiment_{name}", help_, labels=["experiment", *labels])
            # Of two files with one name, the first: Prometheus refuses a page that says a series twice.
            for view in {view["name"]: view for view in reversed(views)}.values():
                for values, value in samples(view):
                    if value is not None:
                        gauge.add_metric([view["name"], *values], value)
            yield gauge


def _stage(view: View) -> Iterator[Sample]:
    yield (view["phase"],), 1.0


def _verdict(view: View) -> Iterator[Sample]:
    if view["verdict"] is not None:
        yield (str(view["verdict"]["verdict"]),), 1.0


def _switch(view: View) -> Iterator[Sample]:
    yield (), float(view["enabled"])


def _attention(view: View) -> Iterator[Sample]:
    for condition in ("held", "harm"):
        yield (condition,), float(view["advice"]["condition"] == condition)


def _started(view: View) -> Iterator[Sample]:
    yield (), None if view["since"] is None else datetime.fromisoformat(view["since"]).timestamp()


def _looked(view: View) -> Iterator[Sample]:
    yield (), datetime.fromisoformat(view["looked"]).timestamp()


def _newest(view: View) -> Iterator[Sample]:
    if (found := view["newest"]) is not None:
        yield (), datetime.fromisoformat(found["at"]).timestamp()


def _unreadable(view: View) -> Iterator[Sample]:
    yield (), float(view["problem"] is not None)


def _settled(view: View) -> Iterator[Sample]:
    if (found := view["settled"]) is not None:
        yield (found["reason"],), float(found["done"])


def _srm(view: View) -> Iterator[Sample]:
    if view["verdict"] is not None:
        yield (), view["verdict"].get("srm_p")


def _share(view: View) -> Iterator[Sample]:
    return (((arm["name"],), arm["share"]) for arm in view["plan"]["arms"])


def _of_arms(figure: str) -> Callable[[View], Iterator[Sample]]:
    def samples(view: View) -> Iterator[Sample]:
        for arm, found in (view["verdict"] or {}).get("arms", {}).items():
            yield (arm,), found.get(figure)

    return samples


def _lift(end: int | None) -> Callable[[View], Iterator[Sample]]:
    def samples(view: View) -> Iterator[Sample]:
        for arm, found in (view["verdict"] or {}).get("challengers", {}).items():
            interval = found.get("lift_ci") or (None, None)
            of = (arm, view["plan"]["metrics"]["primary"], view["unit"])
            yield of, found.get("lift") if end is None else interval[end]

    return samples


def _long_term(end: int | None) -> Callable[[View], Iterator[Sample]]:
    def samples(view: View) -> Iterator[Sample]:
        if (found := view["long_term"]) is not None:
            interval = found["effect_ci"] or (None, None)
            yield (found["metric"], found["unit"]), found["effect"] if end is None else interval[end]

    return samples


def _guardrails(view: View) -> Iterator[Sample]:
    for arm, found in (view["verdict"] or {}).get("challengers", {}).items():
        for check in found.get("guardrails") or ():
            yield (arm, check["name"]), float(check["state"] == "breached")


def _money(figure: str) -> Callable[[View], Iterator[Sample]]:
    """Of each arm and period, the widest account: a campaign is no label."""

    def samples(view: View) -> Iterator[Sample]:
        for spend in view["spend"]:
            if (spend["campaign"], spend["channel"]) == ("*", "*"):
                yield (spend["arm"], spend["period"], view["currency"]), float(spend[figure])  # type: ignore[literal-required]

    return samples


_GAUGES: tuple[tuple[str, str, Sequence[str], Callable[[View], Iterable[Sample]]], ...] = (
    ("stage", "1 for the stage that it is at, or how it ended", ("stage",), _stage),
    ("stage_start_timestamp_seconds", "When its time at this stage began to count", (), _started),
    ("looked_timestamp_seconds", "When these figures were looked at", (), _looked),
    ("newest_decision_timestamp_seconds", "When the newest decision in its log was taken", (), _newest),
    ("unreadable", "1 while its file or log can't be read", (), _unreadable),
    ("switched_on", "0 while the kill switch is on", (), _switch),
    ("attention", "1 while a person is needed: held, or harm was done", ("condition",), _attention),
    (
        "settled",
        "Of a promotion: 1 once the incumbent's model server serves what follows from it",
        ("reason",),
        _settled,
    ),
    ("verdict", "1 for the verdict so far", ("verdict",), _verdict),
    ("srm_p_value", "Of the sample ratio mismatch, valid at every look", (), _srm),
    ("share_ratio", "Share of the users that an arm has now", ("arm",), _share),
    ("users", "Users who count in the verdict; who moved to another arm is in both", ("arm",), _of_arms("users")),
    ("counted_decisions", "Decisions that count in the verdict", ("arm",), _of_arms("decisions")),
    ("lift", "Challenger less incumbent, of the primary metric", ("arm", "metric", "unit"), _lift(None)),
    ("lift_lower", "Lower end of its always-valid interval", ("arm", "metric", "unit"), _lift(0)),
    ("lift_upper", "Upper end of its always-valid interval", ("arm", "metric", "unit"), _lift(1)),
    ("long_term_effect", "Of a promotion: promoted less holdout", ("metric", "unit"), _long_term(None)),
    ("long_term_effect_lower", "Lower end of its always-valid interval", ("metric", "unit"), _long_term(0)),
    ("long_term_effect_upper", "Upper end of its always-valid interval", ("metric", "unit"), _long_term(1)),
    (
        "guardrail_breached",
        "1 while even the smallest plausible harm is above its margin",
        ("arm", "metric"),
        _guardrails,
    ),
    ("spent", "Of the present period; arm *: all of them", ("arm", "period", "currency"), _money("spent")),
    ("budget", "What may be spent in it", ("arm", "period", "currency"), _money("limit")),
)
