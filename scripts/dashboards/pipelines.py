"""The pipelines dashboard: do data flow from the routers to the jobs, and back into decisions?"""

from scripts.dashboards.board import Board, or_nothing
from scripts.dashboards.limits import color_of
from scripts.dashboards.panels import Column, duration, durations, lines, rows, share, shares, stat

_STEPS = 'pod=~"mtorl-(bootstrap|train|retrain|monitor)-[a-z0-9]+-.*(system|impl|driver).*"'
_OWNED = """* on (namespace, job_name) group_left (owner_name) kube_job_owner{NS, owner_kind="CronJob"}"""


_TOP = [
    duration(
        "Age of online features",
        "Time since the job mtorl-materialize last succeeded. Without the feed, decisions use histories of this age.",
        'time() - max(kube_cronjob_status_last_successful_time{NS, cronjob="mtorl-materialize"})',
        limit="MtorlMaterializationStale",
        empty="never",
    ),
    duration(
        "Waits for the lake",
        "Age of the oldest record on any router that is not yet in the lake. 0: no record waits.",
        'max(mtorl_spool_oldest_pending_seconds{NS, to="lake"})',
        limit="MtorlLakeUploadStalled",
    ),
    duration(
        "Waits for the sink",
        "Age of the oldest record that the sink has not acknowledged. 0 if no sink is set.",
        'max(mtorl_spool_oldest_pending_seconds{NS, to="sink"})',
        limit="MtorlLogShippingStalled",
    ),
    share(
        "Room of the spool",
        "Free share of a router's spool quota, lowest of all routers. If the spool is full, every decision is the "
        "default action.",
        "min(mtorl_spool_free_bytes{NS} / mtorl_spool_limit_bytes{NS})",
        limit="MtorlSpoolNearlyFull",
    ),
    stat(
        "Failed jobs",
        "Failed jobs that Kubernetes still keeps, a few for each CronJob.",
        or_nothing("count(max by (job_name) (kube_job_status_failed{NS}) > 0)"),
        bad={1: "orange"},
    ),
    rows(
        "CronJobs",
        "Time since the last success and the last start. mtorl-bootstrap is suspended, because people start it.",
        ["cronjob"],
        [
            Column("succeeded ago", "time() - max by (cronjob) (kube_cronjob_status_last_successful_time{NS})", "s"),
            Column("started ago", "time() - max by (cronjob) (kube_cronjob_status_last_schedule_time{NS})", "s"),
            Column("runs now", "max by (cronjob) (kube_cronjob_status_active{NS})"),
            Column(
                "suspended",
                "max by (cronjob) (kube_cronjob_spec_suspend{NS})",
                texts={"0": ("no", "green"), "1": ("yes", "text")},
            ),
        ],
        empty="kube-state-metrics is missing",
    ),
]
_LOG = [
    lines(
        "Records of the decision log",
        "Records per second: stored on the routers' disks, uploaded to the lake, and sent to the sink, if one is set.",
        {
            "durable": "sum(rate(mtorl_spool_records_total{NS}[5m]))",
            "{{to}}: {{kind}}": "sum by (to, kind) (rate(mtorl_shipped_records_total{NS}[5m]))",
        },
        unit="recps",
    ),
    lines(
        "Size of the spool",
        "Size on each router's disk, and the quota at which logging stops.",
        {
            "{{pod}}": "max by (pod) (mtorl_spool_bytes{NS})",
            "{{pod}}: quota": "max by (pod) (mtorl_spool_limit_bytes{NS})",
        },
        unit="bytes",
    ),
    durations(
        "Age of the oldest record that waits",
        "Age by router, for lake and sink. Verdicts, the monitor and the next training see only records in the lake.",
        {"{{pod}}: {{to}}": "max by (pod, to) (mtorl_spool_oldest_pending_seconds{NS})"},
        limit="MtorlLakeUploadStalled",
    ),
    lines(
        "Log that waits",
        "Backlog by router, for lake and sink, in bytes of the spool.",
        {"{{pod}}: {{to}}": "max by (pod, to) (mtorl_spool_pending_bytes{NS})"},
        unit="bytes",
    ),
    lines(
        "Shipping that failed",
        "Failed attempts per second by reason, and records per second that were refused and set aside.",
        {
            "{{to}} failed: {{reason}}": "sum by (to, reason) (rate(mtorl_ship_failures_total{NS}[5m]))",
            "{{to}} refused: {{kind}}": "sum by (to, kind) (rate(mtorl_poison_records_total{NS}[5m]))",
        },
        unit="recps",
        empty="none",
    ),
    lines(
        "Lost records, unwritable logs",
        "Withdrawn decisions without a record, and routers that can't write their log. Both should be 0.",
        {
            "lost": "sum(mtorl_spool_lost_records{NS})",
            "routers that can't write": "count(mtorl_spool_writable{NS}) - sum(mtorl_spool_writable{NS})",
        },
    ),
]
_JOBS = [
    durations(
        "Duration of jobs",
        "Duration of each CronJob's last completed job.",
        {
            "{{owner_name}}": f"""max by (owner_name) (
                (kube_job_status_completion_time{{NS}} - kube_job_status_start_time{{NS}}) {_OWNED})"""
        },
    ),
    lines(
        "Steps of pipelines",
        "Pods of pipelines on Kubeflow Pipelines, by phase.",
        {"{{phase}}": f"sum by (phase) (kube_pod_status_phase{{NS, {_STEPS}}}) > 0"},
        stacked=True,
        empty="no run",
    ),
    lines(
        "New models",
        "Changes of an arm's model within a day: by a published training, a rollout or a rollback.",
        {"{{experiment}} {{arm}}": "sum by (experiment, arm) (increase(mtorl_arm_model_changes_total{NS}[1d]))"},
        empty="none",
    ),
    rows(
        "Runs of pipelines",
        "Result of each pipeline's newest run, except cancelled runs. `mtorl monitor status` shows the errors.",
        ["pipeline"],
        [
            Column(
                "newest run",
                "max by (pipeline) (mtorl_pipeline_run_failed{NS})",
                texts={"0": ("fine", "green"), "1": ("failed", color_of("MtorlPipelineFailed"))},
            ),
            Column("failed in a row", "max by (pipeline) (mtorl_pipeline_runs_failed_in_a_row{NS})"),
            Column("ended ago", "time() - max by (pipeline) (mtorl_pipeline_run_end_timestamp_seconds{NS})", "s"),
            Column(
                "succeeded ago", "time() - max by (pipeline) (mtorl_pipeline_last_success_timestamp_seconds{NS})", "s"
            ),
            Column("usually every", "max by (pipeline) (mtorl_pipeline_usual_interval_seconds{NS})", "s"),
        ],
        empty="no run has ended",
        width=24,
    ),
    rows(
        "Training sample",
        "Model whose training sample the monitor compares columns with, and whether it requests a training.",
        ["model_version"],
        [
            Column(
                "new training",
                """max by (model_version) (mtorl_monitor_state_info{NS}
                * on (namespace) group_left () max by (namespace) (mtorl_monitor_retrain_requested{NS}))""",
                texts={"0": ("not needed", "green"), "1": ("requested", "blue")},
            )
        ],
        empty="no result",
        width=6,
    ),
    shares(
        "Room on volumes",
        "Free share of each volume, reported by the kubelet.",
        {
            "{{persistentvolumeclaim}}": """min by (persistentvolumeclaim) (
                kubelet_volume_stats_available_bytes{NS} / kubelet_volume_stats_capacity_bytes{NS})"""
        },
        width=6,
    ),
]
BOARD = Board(
    "pipelines",
    "Do data flow from the routers to the jobs, and back into decisions?",
    "24h",
    alerts=["pod", "to", "kind", "pipeline"],
    sections={"": _TOP, "Decision log": _LOG, "Jobs, trainings, volumes": _JOBS},
)
