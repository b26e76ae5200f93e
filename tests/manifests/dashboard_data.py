"""Writes example metrics of a busy namespace as OpenMetrics text, for the tests of the dashboards.

`python -P -m tests.manifests.dashboard_data FILE [HOURS]` writes the metrics of the last HOURS hours, and of one hour
of the day before.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from monitoring.experiments.gauges import ExperimentCollector
from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.exporter import MonitorCollector, RunsCollector
from monitoring.watch.state import Alarm, Group, NotJudged, RetrainRequest, State, Stream
from scripts.dashboards.limits import rules
from serving.router.ops import metrics
from tests.monitoring.experiments import made_views

NAMESPACE = "shop"
NOW = made_views.START + 1506 * made_views.HOUR  # one hour after the newest example view
HOUR = 3600.0
STEP = 60.0
RUNNING = "mtorl-and-a-vendor"
VALUES = {  # of each label in a router's metrics
    "experiment": (RUNNING,),
    "arm": ("*", "incumbent", "mtorl", "vendor-bidder"),
    "channel": ("search", "display"),
    "period": ("day",),
    "reason": ("model_timeout", "features"),
    "kind": ("cost", "click", "decision"),
    "status": ("accepted", "late", "429"),
    "stage": ("features", "model", "ledger", "log"),
    "cause": ("channel",),
    "result": ("answered", "dropped"),
    "expose": ("true", "false"),
    "found": ("yes", "no"),
    "store": ("file",),
    "to": ("lake", "sink"),
}
Labels = dict[str, str]
Said = Iterator[tuple[str, Labels, float]]


def _collected(collector: Collector) -> Said:
    for metric in collector.collect():
        for sample in metric.samples:
            if metric.name.startswith("mtorl_") and not sample.name.endswith("_created"):
                yield sample.name, dict(sample.labels), sample.value


def _router(step: int) -> None:
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        for n, labels in enumerate(product(*(VALUES[name] for name in metric._labelnames))):
            one = metric.labels(*labels) if labels else metric
            if isinstance(one, Counter):
                one.inc(1 + n + step % 5)
            elif isinstance(one, Gauge):
                one.set(1 + n + 0.1 * (step % 5))
            elif isinstance(one, Histogram):
                one.observe(0.01 * (1 + n))


def _state(late: bool) -> State:
    def stream(name: str) -> Stream:
        kind = MOVED.get(name, "") if late else ""
        alarm = Alarm(kind=kind, since=_time(NOW - 20 * HOUR), text="moved") if kind else None  # type: ignore[arg-type]
        loss = 41.0 if kind == "harm" else 0.0
        return Stream(
            value=0.1, expected=0.09, evidence=11.0 + 20 * late, needed=20.0, alarm=alarm, loss=loss, loss_unit="clicks"
        )

    groups = {
        name: Group(end=_time(NOW - 6 * HOUR), decisions=172_000, users=31_400)
        for name in ("context", "journeys", "decisions", "outcomes")
    }
    groups["performance"] = Group(not_judged=NotJudged(reason="no_model", text="its artifact is gone"))
    return State(
        checked=_time(NOW - 1800),
        model_version="challenger/20261201",
        groups=groups,
        streams={name: stream(name) for name in STREAMS},
        broken={"age": Alarm(kind="data_quality", since=_time(NOW - HOUR), text="all values are missing")},
        retrain=RetrainRequest(since=_time(NOW - HOUR), reason="device", model_version="one") if late else None,
    )


MOVED = {"outcomes/gain_per_cost": "harm", "outcomes/cost_per_exposure": "harm", "context/device": "drift"}
STREAMS = (
    *MOVED,
    "outcomes/gain_per_decision",
    "performance/incumbent/calibration",
    f"performance/{RUNNING}/mtorl/auc",
    "journeys/history_length",
    "decisions/incumbent/exposure_ratio",
    "decisions/incumbent/channel_search_ratio",
    "context/hour",
)


def _end_run(runs: Path, pipeline: str, at: float, why: str = "") -> None:
    state = "FAILED" if why else "SUCCEEDED"
    PipelineRun.ended(pipeline, state, {"ingest": why} if why else {}, None, _time(at)).write(runs)


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)


def _torchserve(model: str, step: int) -> Said:
    said = {"model_name": model, "model_version": "default", "hostname": "pod"}
    requests = 50.0 * step
    yield "ts_inference_requests_total", said, requests
    yield "ts_inference_latency_microseconds", said, 7_400 * requests
    yield "ts_queue_latency_microseconds", said, 900 * requests
    host = {"Level": "Host", "Hostname": "pod"}
    for status, count in (("2XX", requests), ("4XX", 0.0), ("5XX", 0.05 * step)):
        yield f"Requests{status}", host, count


def _cluster(step: int, at: float) -> Said:
    yield "kube_statefulset_replicas", {"statefulset": "mtorl-router"}, 1
    for model in ("incumbent", "challenger"):
        of = {"deployment": f"mtorl-{model}-predictor"}
        yield "kube_deployment_status_replicas_ready", of, 2 - (model == "challenger")
        yield "kube_deployment_spec_replicas", of, 2
        stuck = float(model == "challenger")
        yield "kube_deployment_status_condition", {**of, "condition": "Progressing", "status": "false"}, stuck
        pod = {"pod": f"mtorl-{model}-predictor-7d9f-x2x4z", "container": "kserve-container"}
        yield "kube_pod_container_status_restarts_total", pod, step // 50 if stuck else 0
    for name, every in (("materialize", 15), ("compact", 60), ("monitor", 60)):
        job, cronjob = {"job_name": f"mtorl-{name}-29700000"}, {"cronjob": f"mtorl-{name}"}
        done = at - 60 * (step % every) - 30
        yield "kube_cronjob_status_last_successful_time", cronjob, done
        yield "kube_cronjob_status_last_schedule_time", cronjob, done - 40
        yield "kube_cronjob_status_active", cronjob, float(step % every == 0)
        yield "kube_cronjob_spec_suspend", cronjob, 0
        yield "kube_job_owner", {**job, "owner_kind": "CronJob", "owner_name": f"mtorl-{name}"}, 1
        yield "kube_job_status_start_time", job, done - 35
        yield "kube_job_status_completion_time", job, done
        yield "kube_job_status_failed", job, float(name == "monitor")
    yield "kube_cronjob_spec_suspend", {"cronjob": "mtorl-bootstrap"}, 1
    for phase in ("Running", "Succeeded", "Failed"):
        pod = {"pod": "mtorl-train-4k2jx-system-container-impl-1836412", "phase": phase}
        yield "kube_pod_status_phase", pod, float(phase == ("Running" if step % 60 < 40 else "Succeeded"))
    for claim, share in (("mtorl-data", 0.42), ("state-mtorl-router-0", 0.8)):
        of = {"persistentvolumeclaim": claim}
        yield "kubelet_volume_stats_capacity_bytes", of, 1e11
        yield "kubelet_volume_stats_available_bytes", of, share * 1e11 - 1e6 * step


_ALERTS: tuple[tuple[str, str, Labels], ...] = (
    ("MtorlDecisionLatencyHigh", "firing", {"experiment": RUNNING, "arm": "vendor-bidder"}),
    ("MtorlFallbackRatioHigh", "pending", {"experiment": RUNNING, "arm": "vendor-bidder"}),
    ("MtorlPolicyCollapsed", "firing", {"experiment": RUNNING, "arm": "vendor-bidder", "channel": "search"}),
    ("MtorlExperimentHeld", "firing", {"experiment": "slow-model", "stage": "5%"}),
    ("MtorlBudgetNearlySpent", "firing", {"experiment": RUNNING, "arm": "mtorl", "period": "day"}),
    ("MtorlHarm", "firing", {}),
    ("MtorlDrift", "firing", {}),
    ("MtorlPipelineFailed", "firing", {"pipeline": "mtorl-train"}),
    ("MtorlLakeUploadStalled", "pending", {"pod": "mtorl-router-0"}),
    ("MtorlLogShippingStalled", "firing", {"pod": "mtorl-router-0"}),
)


def _alerts(share: float) -> Said:
    for name, state, labels in _ALERTS if share > 0.5 else ():
        given = {key: value for key, value in labels.items() if value}
        yield "ALERTS", {"alertname": name, "alertstate": state, **rules()[name]["labels"], **given}, 1


def text(hours: float) -> str:
    near = [NOW - HOUR * hours + STEP * n for n in range(int(hours * HOUR / STEP) + 1)]
    times = [NOW - 24 * HOUR - HOUR + STEP * n for n in range(int(HOUR / STEP) + 1)] + near
    lines: list[str] = []

    def add(at: float, target: Labels, said: Said) -> None:
        for name, labels, value in said:
            given = {**labels, **target, "namespace": NAMESPACE}.items()
            written = ",".join(f'{label}="{content}"' for label, content in given)
            lines.append(f"{name}{{{written}}} {value} {at:.0f}")

    names = ("mtorl-and-a-vendor", "done", "slow-model", "switched")
    views = [view for view in (state() for state in made_views.STATES.values()) if view["name"] in names]
    ramp = (made_views.early(), made_views.win())
    with TemporaryDirectory() as folder:
        path, runs = Path(folder, "state.json"), Path(folder, "runs")
        for night in range(11, 0, -1):
            for pipeline in ("mtorl-train", "mtorl-monitor"):
                _end_run(runs, pipeline, NOW - 24 * HOUR * (night + 1))
        for step, at in enumerate(times):
            share = step / len(times)
            _state(share > 0.5).write(path)
            _router(step)
            add(at, {"job": "mtorl-router", "pod": "mtorl-router-0"}, _collected(REGISTRY))
            shown = [*views, ramp[share > 0.5]]
            operator = {"job": "mtorl/mtorl-operator", "pod": "mtorl-operator-5c"}
            add(at, operator, _collected(ExperimentCollector(lambda shown=shown: shown)))  # type: ignore[misc]
            monitor = {"job": "mtorl/mtorl-monitor-exporter", "pod": "mtorl-monitor-exporter-6f"}
            add(at, monitor, _collected(MonitorCollector(path)))
            if step == len(times) // 2:
                _end_run(runs, "mtorl-train", at, "the log has lost rows")
            add(at, monitor, _collected(RunsCollector(runs)))
            for model in ("incumbent", "challenger"):
                pod = {"job": "mtorl/mtorl-torchserve", "pod": f"mtorl-{model}-predictor-7d9f-x2x4z", "arm": model}
                add(at, pod, _torchserve(model, step))
            add(at, {}, _cluster(step, at))
            add(at, {}, _alerts(share))
    return "\n".join([*lines, "# EOF", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(float(sys.argv[2]) if len(sys.argv) > 2 else 2.0), encoding="utf-8")
