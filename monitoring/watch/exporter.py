"""Exports the monitor's last result and the newest run of each pipeline to Prometheus.

The labels contain neither users nor campaigns.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitoring.gauge_table import Sample, gauges
from monitoring.pipeline_runs import PipelineRun, newest_runs
from monitoring.watch.state import NO_FAULT, State, StateError, Stream
from monitoring.watch.stream_names import COLUMNS, Labels, labels_of

MOST_STREAMS = 200
MOST_PIPELINES = 50
KINDS = ("harm", "data_quality", "drift")
_LABELS = Labels._fields


class MonitorCollector(Collector):
    """A Prometheus collector that reads the monitor's state at each scrape."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = State()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of the last readable state."""
        try:
            read = State.read(self._path)
        except StateError:
            read = State()
        if read.checked is not None:
            self._known = read
        samples = [("state_readable", (), float(read.checked is not None)), *_of_state(self._known)]
        yield from gauges("mtorl_monitor_", _OF_STATE, samples)


def serve(host: str, port: int, *collectors: Collector) -> None:
    """Serve /metrics until the process is stopped. Raises OSError if the port is in use."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    start_http_server(port, host, registry)
    threading.Event().wait()


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _of_state(state: State) -> Iterator[Sample]:
    if state.checked is None:
        return
    yield "checked_timestamp_seconds", (), state.checked.timestamp()
    yield "newest_model_timestamp_seconds", (), _seconds(state.newest_model)
    for name, group in state.groups.items():
        yield "period_end_timestamp_seconds", (name,), _seconds(group.end)
        yield "period_decisions", (name,), group.decisions
        yield "period_users", (name,), group.users
        if group.not_judged is not None:
            reason = group.not_judged.reason
            yield "not_judged", (name, reason), float(reason not in NO_FAULT)
    alarms = state.alarms()
    shown = {**{name: Stream() for name in alarms}, **state.streams}

    # Sort alarms first, then measures, because there are few measures but perhaps many columns.
    def rank(name: str) -> tuple[bool, bool, float, str]:
        return name not in alarms, labels_of(name).group == COLUMNS, -shown[name].evidence / shown[name].needed, name

    for name in sorted(sorted(shown, key=rank)[:MOST_STREAMS]):
        stream, labels, alarm = shown[name], labels_of(name), alarms.get(name)
        yield "value", labels, stream.value
        yield "expected", labels, stream.expected
        yield "evidence_ratio", labels, stream.evidence / stream.needed
        yield "loss", (*labels, stream.loss_unit), stream.loss
        for kind in KINDS:
            yield "alarm", (*labels, kind), float(alarm is not None and alarm.kind == kind)
        if alarm is not None:
            yield "alarm_since_timestamp_seconds", labels, alarm.since.timestamp()
            for full in alarm.arms:
                experiment, _, arm = full.rpartition("/")
                yield "harm_by_arm", (experiment, arm, labels.measure), 1.0
    yield "retrain_requested", (), float(state.retrain is not None)
    yield "state_info", (state.model_version,), 1.0


_OF_STATE: dict[str, tuple[str, Sequence[str]]] = {
    "state_readable": ("1 if the state can be read", ()),
    "checked_timestamp_seconds": ("Time of the last check", ()),
    "newest_model_timestamp_seconds": ("Training time of the newest published model that needs no experiment", ()),
    "period_end_timestamp_seconds": ("End of the newest checked period", ("group",)),
    "period_decisions": ("Decisions in the newest checked period", ("group",)),
    "period_users": ("Users in the newest checked period", ("group",)),
    "not_judged": ("1 if the period could not be judged; 0 if the reason is no fault", ("group", "reason")),
    "value": ("Value in the newest period; of a column, its distance to the training sample", _LABELS),
    "expected": ("Value expected from earlier periods; of a column, its threshold", _LABELS),
    "evidence_ratio": ("Evidence of a change, relative to the evidence that a single alarm needs", _LABELS),
    "loss": ("Loss of gain or money per period by the difference", (*_LABELS, "counted_in")),
    "alarm": ("1 while the alarm is active", (*_LABELS, "kind")),
    "alarm_since_timestamp_seconds": ("Start of the change that the alarm is about", _LABELS),
    "harm_by_arm": ("1 while this challenger is the cause of active harm", ("experiment", "arm", "measure")),
    "retrain_requested": ("1 while a training is requested", ()),
    "state_info": ("Model whose training sample is the reference", ("model_version",)),
}


class RunsCollector(Collector):
    """A Prometheus collector of the newest run of each pipeline.

    If the file of a pipeline can't be read, the values that were read last are exported again.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[str, PipelineRun] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of the last `MOST_PIPELINES` pipelines."""
        there = {path.stem for path in self._runs.glob("[!.]*.json")}
        known = {name: run for name, run in self._known.items() if name in there}
        self._known = known | {run.pipeline: run for run in newest_runs(self._runs)}
        shown = sorted(self._known.values(), key=lambda run: run.at)[-MOST_PIPELINES:]
        samples: list[Sample] = []
        for run in sorted(shown, key=lambda run: run.pipeline):
            of, interval = (run.pipeline,), run.usual_interval
            samples += [
                ("run_failed", of, float(run.failed_in_a_row > 0)),
                ("runs_failed_in_a_row", of, run.failed_in_a_row),
                ("run_end_timestamp_seconds", of, run.at.timestamp()),
                ("last_success_timestamp_seconds", of, _seconds(run.succeeded)),
                ("usual_interval_seconds", of, None if interval is None else interval.total_seconds()),
            ]
        yield from gauges("mtorl_pipeline_", _OF_RUNS, samples)


_OF_RUNS: dict[str, tuple[str, Sequence[str]]] = {
    "run_failed": ("1 if the newest run failed; cancelled runs are ignored", ("pipeline",)),
    "runs_failed_in_a_row": ("Failed runs since the last success", ("pipeline",)),
    "run_end_timestamp_seconds": ("End of the newest run", ("pipeline",)),
    "last_success_timestamp_seconds": ("Time of the last success", ("pipeline",)),
    "usual_interval_seconds": ("Longest usual time between two successes, known after eleven", ("pipeline",)),
}
