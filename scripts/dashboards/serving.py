"""Serving: does every request get a decision in time, and what fails or is slow behind it?"""

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
    """Microseconds a request, in seconds."""
    return f"""sum by (model_name) (rate({sum_of}{{NS}}[5m]))
        / (sum by (model_name) (rate(ts_inference_requests_total{{NS}}[5m])) > 0) / 1e6"""


_TOP = [
    share(
        "Routers that decide",
        "Routers that are ready, of those that are wanted. With none, callers get no decisions at all.",
        """sum(mtorl_ready{NS}) / max(kube_statefulset_replicas{NS, statefulset="mtorl-router"})
            or avg(mtorl_ready{NS})""",
        bad={0: "red", 0.01: "orange", 1: "green"},
    ),
    duration(
        "p99 of decisions",
        "From request to answer, of the slowest arm. Callers give up at the deadline and use their own default.",
        f"max({_quantile(0.99, 'experiment, arm, le', _LATENCY)})",
        limit=_LATE,
    ),
    share(
        "Default actions",
        "Share of the decisions that are the default action, of the arm that has most. They show no ad.",
        """max(sum by (experiment, arm) (rate(mtorl_fallbacks_total{NS, arm!="override"}[5m]))
            / sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m])))
            or 0 * max(mtorl_ready{NS})""",
        limit=_FALLBACKS,
    ),
    share(
        "Asked to come again",
        "Share of the requests that a router is too busy for (status 429). Callers use their own default meanwhile.",
        f"{_BUSY} or 0 * max(mtorl_ready{{NS}})",
        limit="MtorlRouterSaturated",
    ),
    duration(
        "Longest silence of an arm",
        "For how long an arm has not answered; 0 while all do.",
        "max(mtorl_arm_silent_seconds{NS}) or 0 * max(mtorl_ready{NS})",
        limit="MtorlArmSilent",
    ),
    durations(
        "p99 of decisions",
        "From request to answer, each arm.",
        {_ARM: _quantile(0.99, "experiment, arm, le", _LATENCY)},
        limit=_LATE,
    ),
]
_ROUTER = [
    rates(
        "Decisions and other requests",
        "A second: decisions, requests that were refused by status, and repeated ones, which are answered as "
        "the first time.",
        {
            "decisions": "sum(rate(mtorl_decisions_total{NS}[5m]))",
            "refused: {{status}}": "sum by (status) (rate(mtorl_refused_requests_total{NS}[5m]))",
            "repeated": "sum(rate(mtorl_repeated_requests_total{NS}[5m]))",
        },
    ),
    lines(
        "Requests at work",
        "What may be at work at once follows from how fast the router is; above it, requests are asked to come again.",
        {"at work": "sum(mtorl_in_flight_requests{NS})", "may be": "sum(mtorl_admission_limit{NS})"},
    ),
    durations(
        "Where a decision's time goes",
        "p99 of each stage: features (online store), model, ledger (reservation), log (made durable).",
        {"{{stage}}": _quantile(0.99, "stage, le", "mtorl_stage_latency_seconds_bucket{NS}")},
    ),
    rates(
        "Default actions by reason",
        "Decisions a second that took the default action, and why: a store, a model or the ledger that failed "
        "or was slow.",
        {"{{reason}}": "sum by (reason) (rate(mtorl_fallbacks_total{NS}[5m]))"},
        empty="none",
    ),
]
_ARMS = [
    shares(
        "Default actions by arm",
        "Share of an arm's decisions. Unequal shares bias the comparison of the arms.",
        {
            _ARM: """sum by (experiment, arm) (rate(mtorl_fallbacks_total{NS, arm!="override"}[5m]))
                / sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m]))"""
        },
        limit=_FALLBACKS,
        empty="none",
    ),
    shares(
        "Answers that are no decision",
        "Share of an arm's answers, by cause. /health/ready says in a sentence what the arm has to change.",
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
        "A second, as TorchServe counts them, and those that it could not answer.",
        {
            "{{model_name}}": "sum by (model_name) (rate(ts_inference_requests_total{NS}[5m]))",
            "refused (4xx)": "sum(rate(Requests4XX{NS}[5m]))",
            "failed (5xx)": "sum(rate(Requests5XX{NS}[5m]))",
        },
    ),
    durations(
        "Time of a model server's request",
        "Mean of all of it, and of the part in which it waited for a worker. Much waiting wants another replica.",
        {
            "{{model_name}}: all": _each("ts_inference_latency_microseconds"),
            "{{model_name}}: waiting": _each("ts_queue_latency_microseconds"),
        },
    ),
    rows(
        "Model servers of KServe",
        "Pods that serve, of those wanted. Stuck: for ten minutes no pod of a new version has become ready; the "
        "one before serves.",
        ["deployment"],
        [
            Column("ready", f"max by (deployment) (kube_deployment_status_replicas_ready{{NS, {_PREDICTORS}}})"),
            Column("wanted", f"max by (deployment) (kube_deployment_spec_replicas{{NS, {_PREDICTORS}}})"),
            Column(
                "roll-out",
                "max by (deployment) (kube_deployment_status_condition"
                f'{{NS, {_PREDICTORS}, condition="Progressing", status="false"}})',
                texts={"0": ("goes on, or done", "green"), "1": ("stuck", "orange")},
            ),
        ],
    ),
    lines(
        "Restarts of containers",
        "Within an hour, of router and model servers.",
        {"{{pod}}": f"sum by (pod) (increase(kube_pod_container_status_restarts_total{{NS, {_PODS}}}[1h])) > 0"},
        empty="none",
    ),
]
BOARD = Board(
    "serving",
    "Does every request get a decision in time, and what fails or is slow behind it?",
    "6h",
    alerts=["experiment", "arm", "cause", "deployment"],
    sections={"": _TOP, "Router": _ROUTER, "Arms": _ARMS, "Model servers": _MODELS},
)
