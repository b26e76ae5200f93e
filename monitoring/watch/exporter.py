"""The last result of the monitor for Prometheus, read at every scrape.

    serve("0.0.0.0", 9102, MonitorCollector(Path("monitor/state.json")))

While the state can't be read, alarms stand as they were, and their age grows. A process that never read one exports
only that.

Labels are groups, experiments, arms and measures, which descriptions and experiment files name, never users or
campaigns. Of columns beyond MOST_STREAMS, those without an alarm are left out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.watch.state import NO_FAULT, State, StateError, Stream
from monitoring.watch.streams import COLUMNS, Labels, labels_of

MOST_STREAMS = 200
KINDS = ("harm", "data_quality", "drift")
_LABELS = list(Labels._fields)


class MonitorCollector(Collector):
    """Collects the gauges of the state at each scrape."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = State()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; while none can be read, those of the last state that could be."""
        try:
            read = State.read(self._path)
        except StateError:
            read = State()
        readable = read.checked is not None
        if readable:
            self._known = read
        state = self._known
        yield _one("state_readable", "1 if the last result could be read", float(readable))
        if state.checked is None:
            return
        yield _one("checked_timestamp_seconds", "When the last check ended", state.checked.timestamp())
        if state.newest_model is not None:
            newest = state.newest_model.timestamp()
            yield _one("newest_model_timestamp_seconds", "When the newest published model was trained", newest)
        yield from _groups(state)
        yield from _streams(state)
        waiting = GaugeMetricFamily("mtorl_monitor_retrain_requested", "1 while a request to train anew waits")
        waiting.add_metric([], float(state.retrain is not None))
        yield waiting
        info = GaugeMetricFamily("mtorl_monitor_state_info", "Whose training sample counts", labels=["model_version"])
        info.add_metric([state.model_version], 1.0)
        yield info


def serve(host: str, port: int, *collectors: Collector) -> None:
    """Serve /metrics until the process is ended.

    Raises:
        OSError: the port can't be had.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, host, registry)
    threading.Event().wait()


def _one(name: str, help_: str, value: float) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"mtorl_monitor_{name}", help_)
    gauge.add_metric([], value)
    return gauge


def _groups(state: State) -> Iterator[GaugeMetricFamily]:
    end = _gauge("period_end_timestamp_seconds", "End of the newest period that was looked at", ["group"])
    decisions = _gauge("period_decisions", "Its decisions", ["group"])
    users = _gauge("period_users", "Its users", ["group"])
    not_judged = _gauge("not_judged", "1 where it could not be judged; 0 where that is no fault", ["group", "reason"])
    for name, group in state.groups.items():
        if group.end is not None:
            end.add_metric([name], group.end.timestamp())
        decisions.add_metric([name], group.decisions)
        users.add_metric([name], group.users)
        if group.not_judged is not None:
            reason = group.not_judged.reason
            not_judged.add_metric([name, reason], float(reason not in NO_FAULT))
    yield from (end, decisions, users, not_judged)


def _streams(state: State) -> Iterator[GaugeMetricFamily]:
    value = _gauge("value", "Of the newest period; of a column, its distance to the training sample", _LABELS)
    expected = _gauge("expected", "What earlier periods led one to expect; of a column, its threshold", _LABELS)
    ratio = _gauge("evidence_ratio", "Evidence of a change over what an alarm needs alone", _LABELS)
    loss = _gauge("loss", "What the difference costs a period: gain that is lost, or money", [*_LABELS, "counted_in"])
    alarm = _gauge("alarm", "1 while an alarm stands", [*_LABELS, "kind"])
    since = _gauge("alarm_since_timestamp_seconds", "When what it is about began", _LABELS)
    cause = _gauge(
        "harm_by_arm", "1 while harm stands whose cause is this challenger", ["experiment", "arm", "measure"]
    )
    alarms = state.alarms()
    shown = {**{name: Stream() for name in alarms}, **state.streams}

    def rank(name: str) -> tuple[bool, bool, float, str]:  # what is measured has few names, columns may have many
        return name not in alarms, labels_of(name).group == COLUMNS, -shown[name].evidence / shown[name].needed, name

    ranked = sorted(shown, key=rank)
    for name in sorted(ranked[:MOST_STREAMS]):
        stream, labels = shown[name], list(labels_of(name))
        for gauge, number in ((value, stream.value), (expected, stream.expected)):
            if number is not None:
                gauge.add_metric(labels, number)
        if stream.loss is not None:
            loss.add_metric([*labels, stream.loss_unit], stream.loss)
        ratio.add_metric(labels, stream.evidence / stream.needed)
        for kind in KINDS:
            stands = name in alarms and alarms[name].kind == kind
            alarm.add_metric([*labels, kind], float(stands))
        if name in alarms:
            since.add_metric(labels, alarms[name].since.timestamp())
            for full in alarms[name].arms:
                experiment, _, arm = full.rpartition("/")
                cause.add_metric([experiment, arm, labels[-1]], 1.0)
    yield from (value, expected, ratio, loss, alarm, since, cause)


def _gauge(name: str, help_: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mtorl_monitor_{name}", help_, labels=labels)
