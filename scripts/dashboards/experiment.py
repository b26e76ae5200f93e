"""The experiment dashboard: what are the stage and the verdict, is there harm, must a person act?"""

from scripts.dashboards.board import Board
from scripts.dashboards.panels import Column, duration, lines, rows, shares, stat, states

_TOP = [
    stat(
        "Stage",
        "Stage of the experiment, or how it ended, reported by the operator.",
        "max by (stage) (mtorl_experiment_stage{NS, EXP})",
        legend="{{stage}}",
        named=True,
        empty="no operator",
    ),
    stat(
        "Verdict",
        "Current verdict, valid at every look.",
        "max by (verdict) (mtorl_experiment_verdict{NS, EXP})",
        legend="{{verdict}}",
        named=True,
        empty="none yet",
    ),
    stat(
        "Needs a person",
        "Held: the experiment stays at its stage until a person acts. Harm: a challenger did harm and was rolled back.",
        "max by (condition) (mtorl_experiment_attention{NS, EXP}) == 1",
        legend="{{condition}}",
        bad={1: "orange"},
        named=True,
        empty="no",
    ),
    stat(
        "Kill switch",
        "State of the kill switch on the routers. On: all users get the incumbent.",
        "min(mtorl_experiment_enabled{NS, EXP})",
        texts={"0": ("on", "orange"), "1": ("off", "green")},
        empty="not active",
    ),
    stat(
        "Guardrails broken",
        "Metrics that a challenger harms by more than the experiment allows.",
        "sum(max by (arm, metric) (mtorl_experiment_guardrail_breached{NS, EXP}))",
        bad={1: "red"},
        empty="no verdict yet",
    ),
    stat(
        "Files refused",
        "1 while a router refuses an invalid experiment: the router keeps its previous version, and the change has NOT "
        "taken effect.",
        "max(mtorl_experiment_refused{NS})",
        texts={"0": ("none", "green"), "1": ("refused", "red")},
    ),
    duration(
        "Age of the figures",
        "Time since the operator read the log, once a minute for experiments at a stage.",
        """time() - max(mtorl_experiment_looked_timestamp_seconds{NS, EXP}
            and on (namespace, experiment) mtorl_experiment_stage{NS, stage=~"shadow|1%|5%|25%|50%"})""",
        limit="MtorlOperatorDown",
        empty="not at a stage",
    ),
    lines(
        "Lift",
        "Challenger minus incumbent in the primary metric, with an always-valid interval. Entirely above 0: better.",
        {
            "{{arm}}: estimate": "max by (arm) (mtorl_experiment_lift{NS, EXP})",
            "{{arm}}: lower end": "max by (arm) (mtorl_experiment_lift_lower{NS, EXP})",
            "{{arm}}: upper end": "max by (arm) (mtorl_experiment_lift_upper{NS, EXP})",
        },
        line_at=0,
        least=None,
        empty="no verdict yet",
    ),
]
_USERS = [
    lines(
        "Users in the verdict",
        "Users of each arm. A user who changed arms at a new stage counts in both arms.",
        {"{{arm}}": "max by (arm) (mtorl_experiment_users{NS, EXP})"},
        empty="no verdict yet",
    ),
    shares(
        "Shares of users",
        "Configured shares, and shares counted in the verdict. They differ after a change of stage; see the p-value.",
        {
            "{{arm}}: configured": "max by (arm) (mtorl_experiment_share_ratio{NS, EXP})",
            "{{arm}}: counted": """max by (arm) (mtorl_experiment_users{NS, EXP})
                / on () group_left () (sum(max by (arm) (mtorl_experiment_users{NS, EXP})) > 0)""",
        },
        empty="no operator",
    ),
    lines(
        "p-value of the sample ratio",
        "Near 0, users are not split as configured, all figures are invalid, and the experiment is held. Always valid.",
        {"p": "max(mtorl_experiment_srm_p_value{NS, EXP})"},
        empty="no verdict yet",
    ),
    states(
        "Guardrails",
        "Breached: even the lower bound of a challenger's harm is above the allowed margin.",
        "max by (arm, metric) (mtorl_experiment_guardrail_breached{NS, EXP})",
        {"0": ("within its margin", "green"), "1": ("breached", "red")},
        legend="{{arm}}: {{metric}}",
        empty="no verdict yet",
    ),
]
_MONEY = [
    shares(
        "Spent",
        "Spend in the current period, as a share of each arm's limit; arm *: all arms together.",
        {
            "{{arm}} ({{period}})": """max by (arm, period) (mtorl_experiment_spent{NS, EXP})
                / (max by (arm, period) (mtorl_experiment_budget{NS, EXP}) > 0)"""
        },
        limit="MtorlBudgetNearlySpent",
        empty="no operator",
    ),
    rows(
        "Promotions of this namespace",
        "Whether the incumbent's model server serves the promoted model yet or, after a rollback, the previous one.",
        ["experiment", "reason"],
        [
            Column(
                "settled",
                "max by (experiment, reason) (mtorl_experiment_settled{NS})",
                texts={"0": ("not yet", "orange"), "1": ("yes", "green")},
            )
        ],
    ),
    rows(
        "All experiments of this namespace",
        "Their stages.",
        ["experiment", "stage"],
        [Column("", "max by (experiment, stage) (mtorl_experiment_stage{NS})")],
        empty="no operator",
    ),
]
BOARD = Board(
    "experiment",
    "What are the stage and the verdict, is there harm, must a person act?",
    "7d",
    alerts=["experiment", "arm", "metric", "stage"],
    sections={"": _TOP, "Users and guardrails": _USERS, "Money and promotions": _MONEY},
    experiment=True,
)
