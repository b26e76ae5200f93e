"""Metrics of a namespace in which a good deal happens, as Prometheus would have scraped them, for the dashboards.

    python -P -m tests.manifests.dashboard_data FILE [HOURS]

Router, experiments and monitor are the project's own registries. What TorchServe, kube-state-metrics and the kubelet
say is made up, in their words. The file has OpenMetrics text with times: the last hours, and an hour of the day before.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from monitoring.experiments.gauges import ExperimentCollector
from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.exporter import MonitorCollector
from monitoring.watch.runs_exporter import RunsCollector
from monitoring.watch.state import Alarm, Group, NotJudged, RetrainRequest, State, Stream
from mtorl.policy.pacing import Pace
from scripts.dashboards.limits import rules
from serving.ledger import Balance, LimitWatch, Room
from serving.router.ops import metrics
from tests.monitoring.experiments import made_views

NAMESPACE = "shop"
NOW = made_views.START + 1506 * made_views.HOUR  # the newest of the made views is an hour old
HOUR = 3600.0
STEP = 60.0
RUNNING = "mtorl-and-a-vendor"
ARMS = {"incumbent": 60, "mtorl": 30, "vendor-bidder": 30}  # decisions a step
CHANNELS = {
    "incumbent": (0.46, 0.30, 0.14, 0.10),
    "mtorl": (0.28, 0.17, 0.38, 0.17),
    "vendor-bidder": (0.90, 0.06, 0.02, 0.02),
}
Labels = dict[str, str]
Said = Iterator[tuple[str, Labels, float]]


class Series:
    """All samples, by metric and labels."""

    def __init__(self) -> None:
        self._of: dict[str, dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, at: float, target: Labels, said: Iterable[tuple[str, Labels, float]]) -> None:
        """What a target says at a time."""
        for name, labels, value in said:
            key = tuple(sorted({**labels, **target, "namespace": NAMESPACE}.items()))
            self._of[name][key].append((at, value))

    def text(self) -> str:
        """OpenMetrics."""
        written = []
        for name, series in self._of.items():
            written.append(f"# TYPE {name} unknown")
            for labels, samples in series.items():
                said = ",".join(f'{label}="{value}"' for label, value in labels)
                written += [f"{name}{{{said}}} {value} {at:.0f}" for at, value in samples]
        return "\n".join([*written, "# EOF", ""])


def _collected(collector: Collector) -> Said:
    for metric in collector.collect():
        for sample in metric.samples:
            if metric.name.startswith("mtorl_") and not sample.name.endswith("_created"):
                yield sample.name, dict(sample.labels), sample.value


def _router(step: int, at: float) -> None:
    """A minute of traffic in the router's registry."""
    busy = 1 + 0.4 * math.sin(step / 40)
    for n, (arm, often) in enumerate(ARMS.items()):
        decisions = round(often * busy)
        for i in range(decisions):
            metrics.DECISION_LATENCY.labels(RUNNING, arm).observe(0.008 + 0.012 * n + 0.02 * (i / decisions) ** 4)
        metrics.DECISIONS.labels(RUNNING, arm, "true").inc(0.6 * decisions)
        metrics.DECISIONS.labels(RUNNING, arm, "false").inc(0.4 * decisions)
        for channel, share in zip(made_views.CHANNELS, CHANNELS[arm], strict=True):
            metrics.DRAWN_CHANNELS.labels(RUNNING, arm, channel).inc(share * decisions)
        metrics.FALLBACKS.labels(RUNNING, arm, "model_timeout").inc(0.03 * n * decisions)
        metrics.FALLBACKS.labels(RUNNING, arm, "features").inc(0.004 * decisions)
        for name, seconds in (("features", 0.003), ("model", 0.012), ("ledger", 0.001), ("log", 0.002)):
            metrics.STAGE_LATENCY.labels(name, RUNNING, arm).observe(seconds * (1 + 0.2 * (step % 5)))
        metrics.ARM_SILENT.labels(RUNNING, arm).set(20.0 * (step % 3) if arm == "vendor-bidder" else 0)
    metrics.ARM_ANSWER_FAULTS.labels(RUNNING, "vendor-bidder", "channel").inc(0.5)
    metrics.ARM_MODEL_CHANGES.labels(RUNNING, "mtorl").inc(step % 60 == 30)
    metrics.SHADOW.labels("slow-model", "challenger", "answered").inc(20)
    metrics.SHADOW.labels("slow-model", "challenger", "dropped").inc(0.2)
    metrics.FEATURES.labels("yes").inc(90 * busy)
    metrics.FEATURES.labels("no").inc(30 * busy)
    metrics.REPEATED.inc(0.3)
    metrics.REFUSED.labels("429").inc(0.4)
    metrics.REFUSED.labels("401").inc(0.1)
    for kind, often in (("cost", 60), ("click", 6), ("conversion", 0.6)):
        metrics.OUTCOMES.labels(kind, "accepted").inc(often * busy)
        metrics.OUTCOMES.labels(kind, "late").inc(0.01 * often)
    metrics.OUTCOMES.labels("click", "dangling").inc(0.2)
    metrics.SPOOL_RECORDS.inc(180 * busy)
    for kind in ("decision", "outcome"):
        metrics.SHIPPED.labels(kind).inc(80 * busy)
    metrics.SHIP_FAILURES.labels("timeout").inc(0.2)
    metrics.BUDGET_EXPIRED.inc(0.4)
    _router_gauges(step, at, busy)


def _router_gauges(step: int, at: float, busy: float) -> None:
    metrics.READY.set(1)
    metrics.IN_FLIGHT.set(round(3 * busy))
    metrics.ADMISSION_LIMIT.set(24)
    metrics.EXPERIMENT_REFUSED.set(0)
    metrics.EXPERIMENT_ENABLED.labels(RUNNING).set(1)
    metrics.EXPERIMENT_ENABLED.labels("switched").set(0)
    metrics.SPOOL_BYTES.set(4e8 + 2e5 * step)
    metrics.SPOOL_LIMIT.set(2e9)
    metrics.SPOOL_FREE.set(1.6e9 - 2e5 * step)
    metrics.SPOOL_WRITABLE.set(1)
    metrics.SPOOL_LOST.set(0)
    metrics.SPOOL_PENDING.set(40 + 10 * (step % 4))
    metrics.SPOOL_OLDEST.set(5 + step % 7)
    metrics.EXPORT_AGE.set(60 * (step % 5))
    day = (at % 86400) / 86400
    spent = {"incumbent": 0.80, "mtorl": 0.94, "vendor-bidder": 0.55}
    accounts = [
        Balance(f"{RUNNING}/{arm}", campaign, "*", limit, limit * share * day, 0.01 * limit, 0.0, "day")
        for arm, share in spent.items()
        for campaign, limit in (("one", 600.0 * ARMS[arm] / 30), ("two", 400.0 * ARMS[arm] / 30))
    ]
    whole = [sum(getattr(a, of) for a in accounts) for of in ("limit", "spent", "reserved")]
    balances = [*accounts, Balance("*", "*", "*", *whole, 0.0, "day")]
    metrics.show_budget(balances)
    metrics.show_overruns(LimitWatch().overruns(balances))
    paces = [
        Pace(a.arm, a.campaign, a.channel, "day", 0.75 * a.limit * day, a.spent + a.reserved, 20.0) for a in accounts
    ]
    metrics.show_pace(paces)
    metrics.show_ledger_room(Room("file", round(6e9 - 1e6 * step), round(1e10), 1), beside=False)
    metrics.show_prices({f"{RUNNING}/{arm}": 0.02 * (1 + n) * busy for n, arm in enumerate(ARMS)})


def _state(share: float) -> State:
    """What the monitor has found; the share of the time that is over makes it worse."""

    def stream(value: float, expected: float, evidence: float, loss: float = 0.0, kind: str = "") -> Stream:
        alarm = Alarm(kind=kind, since=_time(NOW - 20 * HOUR), text="moved") if kind else None  # type: ignore[arg-type]
        lost = {"loss": loss, "loss_unit": "clicks"}
        return Stream(value=value, expected=expected, evidence=evidence, needed=20.0, alarm=alarm, **lost)

    decided = {f"decisions/incumbent/channel_{name}_ratio": share for name, share in zip(
        made_views.CHANNELS, CHANNELS["incumbent"], strict=True)}  # fmt: skip
    late = share > 0.5
    streams = {
        "outcomes/gain_per_decision": stream(0.081, 0.0805, 1.1),
        "outcomes/gain_per_cost": stream(0.31 - 0.08 * late, 0.35, 31 * share, 41.0, "harm" if late else ""),
        "outcomes/cost_per_exposure": stream(0.26 + 0.06 * late, 0.25, 28 * share, 66.1, "harm" if late else ""),
        "performance/incumbent/calibration": stream(0.97, 1.0, 2.0),
        "performance/incumbent/auc": stream(0.71, 0.72, 1.4),
        "performance/incumbent/expected_auc": stream(0.72, 0.72, 0.7),
        f"performance/{RUNNING}/mtorl/calibration": stream(0.99, 1.0, 1.0),
        f"performance/{RUNNING}/mtorl/auc": stream(0.74, 0.74, 0.6),
        "journeys/history_length": stream(6.1, 6.0, 0.8),
        "journeys/recency_hours": stream(9.4, 9.1, 1.2),
        "journeys/no_history_ratio": stream(0.21, 0.2, 1.6),
        "decisions/incumbent/exposure_ratio": stream(0.61, 0.6, 0.9),
        "decisions/incumbent/fallback_ratio": stream(0.004, 0.004, 0.5),
        "decisions/incumbent/expected_gain": stream(0.08, 0.081, 1.0),
        **{name: stream(value, value, 0.4) for name, value in decided.items()},
        "context/device": stream(0.09 + 0.05 * late, 0.1, 22 * share, kind="drift" if late else ""),
        "context/hour": stream(0.03, 0.05, 1.0),
    }
    groups = {
        name: Group(end=_time(NOW - 6 * HOUR), decisions=172_000, users=31_400)
        for name in ("context", "journeys", "decisions", "outcomes")
    }
    groups["performance"] = Group(not_judged=NotJudged(reason="no_model", text="its artifact is gone"))
    return State(
        checked=_time(NOW - 1800),
        model_version="challenger/20261201",
        groups=groups,
        streams=streams,
        broken={"age": Alarm(kind="data_quality", since=_time(NOW - HOUR), text="all values are missing")},
        retrain=RetrainRequest(since=_time(NOW - HOUR), reason="device", model_version="one") if late else None,
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
    """What kube-state-metrics and the kubelet say."""
    yield "kube_statefulset_replicas", {"statefulset": "mtorl-router"}, 1
    for model in ("incumbent", "challenger"):
        of = {"deployment": f"mtorl-{model}-predictor"}
        yield "kube_deployment_status_replicas_ready", of, 2 - (model == "challenger")
        yield "kube_deployment_spec_replicas", of, 2
        stuck = float(model == "challenger")
        yield "kube_deployment_status_condition", {**of, "condition": "Progressing", "status": "false"}, stuck
        pod = {"pod": f"mtorl-{model}-predictor-7d9f-x2x4z", "container": "kserve-container"}
        yield "kube_pod_container_status_restarts_total", pod, step // 50 if stuck else 0
    for name, every in (("materialize", 15), ("monitor", 60)):
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
    ("MtorlLogExportStale", "pending", {"pod": "mtorl-router-0"}),
    ("MtorlLogShippingStalled", "firing", {"pod": "mtorl-router-0"}),
)


def _alerts(share: float) -> Said:
    """What Prometheus would say of some rules."""
    for name, state, labels in _ALERTS if share > 0.5 else ():
        given = {key: value for key, value in labels.items() if value}
        yield "ALERTS", {"alertname": name, "alertstate": state, **rules()[name]["labels"], **given}, 1


def text(hours: float) -> str:
    """All of it: so many hours until NOW, and an hour of the day before."""
    near = [NOW - HOUR * hours + STEP * n for n in range(int(hours * HOUR / STEP) + 1)]
    times = [NOW - 24 * HOUR - HOUR + STEP * n for n in range(int(HOUR / STEP) + 1)] + near
    series = Series()
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
            _state(share).write(path)
            _router(step, at)
            series.add(at, {"job": "mtorl-router", "pod": "mtorl-router-0"}, _collected(REGISTRY))
            shown = [*views, ramp[share > 0.5]]
            operator = {"job": "mtorl/mtorl-operator", "pod": "mtorl-operator-5c"}
            series.add(at, operator, _collected(ExperimentCollector(lambda shown=shown: shown)))  # type: ignore[misc]
            monitor = {"job": "mtorl/mtorl-monitor-exporter", "pod": "mtorl-monitor-exporter-6f"}
            series.add(at, monitor, _collected(MonitorCollector(path)))
            if step == len(times) // 2:
                _end_run(runs, "mtorl-train", at, "the log has lost rows")
            series.add(at, monitor, _collected(RunsCollector(runs)))
            for model in ("incumbent", "challenger"):
                pod = {"job": "mtorl/mtorl-torchserve", "pod": f"mtorl-{model}-predictor-7d9f-x2x4z", "arm": model}
                series.add(at, pod, _torchserve(model, step))
            series.add(at, {}, _cluster(step, at))
            series.add(at, {}, _alerts(share))
    return series.text()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(float(sys.argv[2]) if len(sys.argv) > 2 else 2.0), encoding="utf-8")
