"""Pipelines: do data get from the router to the jobs, and from there back into decisions?"""

from scripts.dashboards.board import Board, or_nothing
from scripts.dashboards.limits import color_of
from scripts.dashboards.panels import Column, duration, durations, lines, rows, share, shares, stat

_STEPS = 'pod=~"mtorl-(bootstrap|train|retrain|monitor)-[a-z0-9]+-.*(system|impl|driver).*"'
_OWNED = """* on (namespace, job_name) group_left (owner_name) kube_job_owner{NS, owner_kind="CronJob"}"""


_TOP = [
    duration(
        "Age of online features",
        "Since the job mtorl-materialize succeeded. Decisions are made on histories as old as this, unless the "
        "feed adds to them.",
        'time() - max(kube_cronjob_status_last_successful_time{NS, cronjob="mtorl-materialize"})',
        limit="MtorlMaterializationStale",
        empty="never",
    ),
    duration(
        "Waits for the lake",
        "Age of the oldest record that is not in the lake, of the router where that is longest. 0: none waits.",
        'max(mtorl_spool_oldest_pending_seconds{NS, to="lake"})',
        limit="MtorlLakeUploadStalled",
    ),
    duration(
        "Waits for the sink",
        "Age of the oldest record that the sink has not acknowledged. Where no sink is set: 0.",
        'max(mtorl_spool_oldest_pending_seconds{NS, to="sink"})',
        limit="MtorlLogShippingStalled",
    ),
    share(
        "Room of the spool",
        "What a router's spool may still grow by, as a share of its quota. Once it is full, every decision is the "
        "default action.",
        "min(mtorl_spool_free_bytes{NS} / mtorl_spool_limit_bytes{NS})",
        limit="MtorlSpoolNearlyFull",
    ),
    stat(
        "Failed jobs",
        "Of those that Kubernetes still keeps: a few of each CronJob.",
        or_nothing("count(max by (job_name) (kube_job_status_failed{NS}) > 0)"),
        bad={1: "orange"},
    ),
    rows(
        "CronJobs",
        "How long ago each succeeded and was started. mtorl-bootstrap is suspended: people start it.",
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
        empty="kube-state-metrics is not there",
    ),
]
_LOG = [
    lines(
        "Records of the decision log",
        "A second: made durable on the router's disk, and taken by the lake, and by the sink, where one is set.",
        {
            "durable": "sum(rate(mtorl_spool_records_total{NS}[5m]))",
            "{{to}}: {{kind}}": "sum by (to, kind) (rate(mtorl_shipped_records_total{NS}[5m]))",
        },
        unit="recps",
    ),
    lines(
        "Size of the spool",
        "On each router's disk, and the size beyond which nothing more is logged.",
        {
            "{{pod}}": "max by (pod) (mtorl_spool_bytes{NS})",
            "{{pod}}: quota": "max by (pod) (mtorl_spool_limit_bytes{NS})",
        },
        unit="bytes",
    ),
    durations(
        "Age of the oldest record that waits",
        "Of each router, for the lake and for the sink. Verdicts, the monitor and the next training lack what the "
        "lake does not have.",
        {"{{pod}}: {{to}}": "max by (pod, to) (mtorl_spool_oldest_pending_seconds{NS})"},
        limit="MtorlLakeUploadStalled",
    ),
    lines(
        "Log that waits",
        "Of each router, for the lake and for the sink, in bytes of its spool.",
        {"{{pod}}: {{to}}": "max by (pod, to) (mtorl_spool_pending_bytes{NS})"},
        unit="bytes",
    ),
    lines(
        "Shipping that failed",
        "Attempts a second, by reason, and records a second that lake or sink refused and that were set aside.",
        {
            "{{to}} failed: {{reason}}": "sum by (to, reason) (rate(mtorl_ship_failures_total{NS}[5m]))",
            "{{to}} refused: {{kind}}": "sum by (to, kind) (rate(mtorl_poison_records_total{NS}[5m]))",
        },
        unit="recps",
        empty="none",
    ),
    lines(
        "Records that are lost, logs that can't be written",
        "Withdrawn decisions of which no record is left, and routers that can't write their log. Both should be 0.",
        {
            "lost": "sum(mtorl_spool_lost_records{NS})",
            "routers that can't write": "count(mtorl_spool_writable{NS}) - sum(mtorl_spool_writable{NS})",
        },
    ),
]
_JOBS = [
    durations(
        "Duration of jobs",
        "Of each CronJob's last complete one.",
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
        "Times within a day that an arm's model became another one: a training that was published, a roll-out, "
        "or a roll-back.",
        {"{{experiment}} {{arm}}": "sum by (experiment, arm) (increase(mtorl_arm_model_changes_total{NS}[1d]))"},
        empty="none",
    ),
    rows(
        "Runs of pipelines",
        "How the newest run of each ended, but for cancelled ones. `mtorl monitor status` says why one failed.",
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
        "Whose training sample the monitor compares columns with, and whether it asks for a new training.",
        ["model_version"],
        [
            Column(
                "new training",
                """max by (model_version) (mtorl_monitor_state_info{NS}
                * on (namespace) group_left () max by (namespace) (mtorl_monitor_retrain_requested{NS}))""",
                texts={"0": ("not needed", "green"), "1": ("asked for", "blue")},
            )
        ],
        empty="no result",
        width=6,
    ),
    shares(
        "Room on volumes",
        "Free share of each volume, as the kubelet says it.",
        {
            "{{persistentvolumeclaim}}": """min by (persistentvolumeclaim) (
                kubelet_volume_stats_available_bytes{NS} / kubelet_volume_stats_capacity_bytes{NS})"""
        },
        width=6,
    ),
]
BOARD = Board(
    "pipelines",
    "Do data get from the router to the jobs, and from there back into decisions?",
    "24h",
    alerts=["pod", "to", "kind", "pipeline"],
    sections={"": _TOP, "Decision log": _LOG, "Jobs, trainings, volumes": _JOBS},
)
