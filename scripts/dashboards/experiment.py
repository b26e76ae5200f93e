"""An experiment: where is it, what is found, does it harm anybody, does it need a person?"""

from scripts.dashboards.board import Board
from scripts.dashboards.panels import Column, duration, lines, rows, shares, stat, states

_TOP = [
    stat(
        "Stage",
        "Where the experiment is, or how it ended. The operator says it.",
        "max by (stage) (mtorl_experiment_stage{NS, EXP})",
        legend="{{stage}}",
        named=True,
        empty="no operator",
    ),
    stat(
        "Verdict",
        "So far. People may look at any time.",
        "max by (verdict) (mtorl_experiment_verdict{NS, EXP})",
        legend="{{verdict}}",
        named=True,
        empty="none yet",
    ),
    stat(
        "Needs a person",
        "Held: nothing moves until somebody has looked. Harm: a challenger did harm, and was rolled back.",
        "max by (condition) (mtorl_experiment_attention{NS, EXP}) == 1",
        legend="{{condition}}",
        bad={1: "orange"},
        named=True,
        empty="no",
    ),
    stat(
        "Kill switch",
        "What the routers have in force. On: everybody gets the incumbent.",
        "min(mtorl_experiment_enabled{NS, EXP})",
        texts={"0": ("on", "orange"), "1": ("off", "green")},
        empty="not in force",
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
        "1 while a router refuses what is in force: it goes on with what it had, and a change has NOT taken effect "
        "there.",
        "max(mtorl_experiment_refused{NS})",
        texts={"0": ("none", "green"), "1": ("refused", "red")},
    ),
    duration(
        "Age of the figures",
        "Since the operator looked. It looks once a minute at what is at a stage.",
        """time() - max(mtorl_experiment_looked_timestamp_seconds{NS, EXP}
            and on (namespace, experiment) mtorl_experiment_stage{NS, stage=~"shadow|1%|5%|25%|50%"})""",
        limit="MtorlOperatorDown",
        empty="not at a stage",
    ),
    lines(
        "Lift",
        "Challenger less incumbent in the primary metric, and its always-valid interval. All above zero: it is better.",
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
        "Of each arm. Who moved from one to another at a new stage is in both.",
        {"{{arm}}": "max by (arm) (mtorl_experiment_users{NS, EXP})"},
        empty="no verdict yet",
    ),
    shares(
        "Shares of users",
        "Configured now, and counted in the verdict. They differ after a change of stage; see the p-value.",
        {
            "{{arm}}: configured": "max by (arm) (mtorl_experiment_share_ratio{NS, EXP})",
            "{{arm}}: counted": """max by (arm) (mtorl_experiment_users{NS, EXP})
                / on () group_left () (sum(max by (arm) (mtorl_experiment_users{NS, EXP})) > 0)""",
        },
        empty="no operator",
    ),
    lines(
        "p-value of the sample ratio",
        "Near 0, users are not split as configured: no figure counts, and the experiment is held. Valid at every look.",
        {"p": "max(mtorl_experiment_srm_p_value{NS, EXP})"},
        empty="no verdict yet",
    ),
    states(
        "Guardrails",
        "Of each challenger: whether even the smallest plausible harm is above the margin that the experiment allows.",
        "max by (arm, metric) (mtorl_experiment_guardrail_breached{NS, EXP})",
        {"0": ("within its margin", "green"), "1": ("breached", "red")},
        legend="{{arm}}: {{metric}}",
        empty="no verdict yet",
    ),
]
_MONEY = [
    shares(
        "Spent",
        "Of an arm's limit, in the present period; arm *: all arms together.",
        {
            "{{arm}} ({{period}})": """max by (arm, period) (mtorl_experiment_spent{NS, EXP})
                / (max by (arm, period) (mtorl_experiment_budget{NS, EXP}) > 0)"""
        },
        limit="MtorlBudgetNearlySpent",
        empty="no operator",
    ),
    rows(
        "Promotions of this namespace",
        "Whether the incumbent's model server serves what follows from a promotion.",
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
    "Where is an experiment, what is found, does it harm anybody, does it need a person?",
    "7d",
    alerts=["experiment", "arm", "metric", "stage"],
    sections={"": _TOP, "Users and guardrails": _USERS, "Money, and afterwards": _MONEY},
    experiment=True,
)
