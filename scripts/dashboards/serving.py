"""The serving dashboard: does every request get a decision in time, and which part fails or is slow?"""

from scripts.dashboards.board import Board
from scripts.dashboards.panels import Column, duration, durations, lines, rates, rows, share, shares

_ARM = "{{experiment}} {{arm}}"
_LATE = "MtorlDecisionLatencyHigh"
_FALLBACKS = "MtorlFallbackRatioHigh"
_LATENCY = 'mtorl_decision_latency_seconds_bucket{NS, arm!="override"}'
_BUSY = """sum(rate(mtorl_refused_requests_total{NS, status="429"}[5m]))
  / (sum(rate(mtorl_decisions_total{NS}[5m])) + sum(rate(mtorl_refused_requests_total{NS, status="429"}[5m])))"""
_FAULTS = 'mtorl_arm_answer_faults_total{NS, cause!="unreachable"}'
_ANSWERS = '{__name__=~"mtorl_decisions_total|mtorl_shadow_decisions_total", namespace="$namespace"}'
_PODS = 'pod=~"mtorl-(router|incumbent-predictor|challenger-predictor).*"'
_PREDICTORS = 'deployment=~"mtorl-(incumbent|challenger)-predictor"'


def _quantile(share: float, by: str, rate: str) -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({rate}[5m])))"


def _each(sum_of: str) -> str:
    """Query the mean seconds per request; `sum_of` is a TorchServe metric in microseconds."""
    return f"""sum by (model_name) (rate({sum_of}{{NS}}[5m]))
        / (sum by (model_name) (rate(ts_inference_requests_total{{NS}}[5m])) > 0) / 1e6"""


_TOP = [
    share(
        "Routers that decide",
        "Ready routers, as a share of the desired number. At 0, callers get no decisions.",
        """sum(mtorl_ready{NS}) / max(kube_statefulset_replicas{NS, statefulset="mtorl-router"})
            or avg(mtorl_ready{NS})""",
        bad={0: "red", 0.01: "orange", 1: "green"},
    ),
    duration(
        "p99 of decisions",
        "Latency of the slowest arm. After the deadline, callers use their own default.",
        f"max({_quantile(0.99, 'experiment, arm, le', _LATENCY)})",
        limit=_LATE,
    ),
    share(
        "Default actions",
        "Share of default actions, which show no ad, in the arm with the highest share.",
        """max(sum by (experiment, arm) (rate(mtorl_fallbacks_total{NS, arm!="override"}[5m]))
            / sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m])))
            or 0 * max(mtorl_ready{NS})""",
        limit=_FALLBACKS,
    ),
    share(
        "Refused with 429",
        "Share of requests that a router refuses because it is too busy. Callers then use their own default.",
        f"{_BUSY} or 0 * max(mtorl_ready{{NS}})",
        limit="MtorlRouterSaturated",
    ),
    duration(
        "Longest silence of an arm",
        "Time since an arm's last answer; 0 while all arms answer.",
        "max(mtorl_arm_silent_seconds{NS}) or 0 * max(mtorl_ready{NS})",
        limit="MtorlArmSilent",
    ),
    durations(
        "p99 of decisions",
        "Latency by arm.",
        {_ARM: _quantile(0.99, "experiment, arm, le", _LATENCY)},
        limit=_LATE,
    ),
]
_ROUTER = [
    rates(
        "Decisions and other requests",
        "Requests per second: decisions, refused requests by status, and repeated requests, which get the first answer "
        "again.",
        {
            "decisions": "sum(rate(mtorl_decisions_total{NS}[5m]))",
            "refused: {{status}}": "sum by (status) (rate(mtorl_refused_requests_total{NS}[5m]))",
            "repeated": "sum(rate(mtorl_repeated_requests_total{NS}[5m]))",
        },
    ),
    lines(
        "Requests in flight",
        "Requests in flight, and their limit, which follows the routers' speed. Above the limit, requests get 429.",
        {"in flight": "sum(mtorl_in_flight_requests{NS})", "limit": "sum(mtorl_admission_limit{NS})"},
    ),
    durations(
        "Latency by stage",
        "p99 of each stage of a decision: features (online store), model, ledger (reservation), log (durable write).",
        {"{{stage}}": _quantile(0.99, "stage, le", "mtorl_stage_latency_seconds_bucket{NS}")},
    ),
    rates(
        "Default actions by reason",
        "Default actions per second by reason: a store, a model or the ledger failed or was slow.",
        {"{{reason}}": "sum by (reason) (rate(mtorl_fallbacks_total{NS}[5m]))"},
        empty="none",
    ),
]
_ARMS = [
    shares(
        "Default actions by arm",
        "Share of default actions in an arm's decisions. Unequal shares bias the comparison of the arms.",
        {
            _ARM: """sum by (experiment, arm) (rate(mtorl_fallbacks_total{NS, arm!="override"}[5m]))
                / sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m]))"""
        },
        limit=_FALLBACKS,
        empty="none",
    ),
    shares(
        "Invalid answers",
        "Share of invalid answers of an arm, by cause. /health/ready describes what the arm must change.",
        {
            _ARM + ": {{cause}}": f"""sum by (experiment, arm, cause) (rate({_FAULTS}[15m]))
                / on (experiment, arm) group_left sum by (experiment, arm) (rate({_ANSWERS}[15m]))"""
        },
        limit="MtorlArmAnswersFaulty",
        empty="none",
    ),
]
_MODELS = [
    rates(
        "Requests of model servers",
        "Requests per second counted by TorchServe, and requests that it refused or failed to answer.",
        {
            "{{model_name}}": "sum by (model_name) (rate(ts_inference_requests_total{NS}[5m]))",
            "refused (4xx)": "sum(rate(Requests4XX{NS}[5m]))",
            "failed (5xx)": "sum(rate(Requests5XX{NS}[5m]))",
        },
    ),
    durations(
        "Time of a model server's request",
        "Mean total time of a request, and its wait for a worker. If the wait is long, add a replica.",
        {
            "{{model_name}}: all": _each("ts_inference_latency_microseconds"),
            "{{model_name}}: waiting": _each("ts_queue_latency_microseconds"),
        },
    ),
    rows(
        "Model servers of KServe",
        "Ready and desired pods. Stuck: no pod of a new version has become ready for ten minutes, and the previous "
        "version still serves.",
        ["deployment"],
        [
            Column("ready", f"max by (deployment) (kube_deployment_status_replicas_ready{{NS, {_PREDICTORS}}})"),
            Column("desired", f"max by (deployment) (kube_deployment_spec_replicas{{NS, {_PREDICTORS}}})"),
            Column(
                "rollout",
                "max by (deployment) (kube_deployment_status_condition"
                f'{{NS, {_PREDICTORS}, condition="Progressing", status="false"}})',
                texts={"0": ("in progress or done", "green"), "1": ("stuck", "orange")},
            ),
        ],
    ),
    lines(
        "Restarts of containers",
        "Restarts of routers and model servers within an hour.",
        {"{{pod}}": f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{NS, {_PODS}}}[1h])) > 0"},
        empty="none",
    ),
]
BOARD = Board(
    "serving",
    "Does every request get a decision in time, and which part fails or is slow?",
    "6h",
    alerts=["experiment", "arm", "cause", "deployment"],
    sections={"": _TOP, "Router": _ROUTER, "Arms": _ARMS, "Model servers": _MODELS},
)
