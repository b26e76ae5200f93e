"""An experiment: where is it, what is found, does it harm anybody, does it need a person?"""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from scripts.dashboards.board import Board, Section, alert_count, alert_list
from scripts.dashboards.limits import limit
from scripts.dashboards.panels import Column, Query, lines, rows, stat, states

UID = "mtorl-experiment"
_BY_OPERATOR = "The operator says it."


def _interval(name: str, series: str) -> list[Query]:
    by = "arm" if series else ""
    return [
        Query(f"max by ({by}) (mtorl_experiment_{name}{end}{{NS, EXP}})", f"{series}{words}")
        for end, words in (("", "estimate"), ("_lower", "lower end"), ("_upper", "upper end"))
    ]


def board() -> Board:
    """The dashboard."""
    top = [
        stat(
            "Stage",
            f"Where the experiment is, or how it ended. {_BY_OPERATOR}",
            Query("max by (stage) (mtorl_experiment_stage{NS, EXP})", "{{stage}}"),
            named=True,
            empty="no operator",
            width=3,
        ),
        stat(
            "Verdict",
            "So far. People may look at any time.",
            Query("max by (verdict) (mtorl_experiment_verdict{NS, EXP})", "{{verdict}}"),
            named=True,
            empty="none yet",
            width=3,
        ),
        stat(
            "Needs a person",
            "Held: nothing moves until somebody has looked. Harm: a challenger did harm, and was rolled back.",
            Query("max by (condition) (mtorl_experiment_attention{NS, EXP}) == 1", "{{condition}}"),
            bad={1: "orange"},
            named=True,
            empty="no",
            width=3,
        ),
        stat(
            "Kill switch",
            "What the routers have in force. On: everybody gets the incumbent.",
            Query("min(mtorl_experiment_enabled{NS, EXP})"),
            texts={"0": ("on", "orange"), "1": ("off", "green")},
            empty="not in force",
            width=3,
        ),
        stat(
            "Guardrails broken",
            "Metrics that a challenger harms by more than the experiment allows.",
            Query("sum(max by (arm, metric) (mtorl_experiment_guardrail_breached{NS, EXP}))"),
            bad={1: "red"},
            empty="no verdict yet",
            width=3,
        ),
        stat(
            "Files refused",
            "1 while a router refuses what is in force: it goes on with what it had, and a change has NOT taken effect "
            "there.",
            Query("max(mtorl_experiment_refused{NS})"),
            texts={"0": ("none", "green"), "1": ("refused", "red")},
            width=3,
        ),
        stat(
            "Age of the figures",
            "Since the operator looked. It looks once a minute at what is at a stage.",
            Query("""time() - max(mtorl_experiment_looked_timestamp_seconds{NS, EXP}
                and on (namespace, experiment) mtorl_experiment_stage{NS, stage=~"shadow|1%|5%|25%|50%"})"""),
            unit=units.Seconds,
            limit=limit("MtorlOperatorDown"),
            empty="not at a stage",
            width=3,
        ),
        alert_count(UID, width=3),
        alert_list(UID, ["experiment", "arm", "metric", "stage"]),
        lines(
            "Lift",
            "Challenger less incumbent in the primary metric, and its always-valid interval. All above zero: it is "
            "better.",
            _interval("lift", "{{arm}}: "),
            line_at=0,
            least=None,
            empty="no verdict yet",
        ),
    ]
    users = [
        lines(
            "Users in the verdict",
            "Of each arm. Who moved from one to another at a new stage is in both.",
            [Query("max by (arm) (mtorl_experiment_users{NS, EXP})", "{{arm}}")],
            empty="no verdict yet",
        ),
        lines(
            "Shares of users",
            "Now configured, and of those who count. They differ after a change of stage; a mismatch is told by its "
            "p-value.",
            [
                Query("max by (arm) (mtorl_experiment_share_ratio{NS, EXP})", "{{arm}}: configured"),
                Query(
                    """max by (arm) (mtorl_experiment_users{NS, EXP})
                    / on () group_left () (sum(max by (arm) (mtorl_experiment_users{NS, EXP})) > 0)""",
                    "{{arm}}: counted",
                ),
            ],
            unit=units.PercentUnit,
            empty="no operator",
        ),
        lines(
            "p-value of the sample ratio",
            "Near 0, users are not split as configured: no figure counts, and the experiment is held. Valid at "
            "every look.",
            [Query("max(mtorl_experiment_srm_p_value{NS, EXP})", "p")],
            empty="no verdict yet",
        ),
        states(
            "Guardrails",
            "Of each challenger: whether even the smallest plausible harm is above the margin that the experiment "
            "allows.",
            Query("max by (arm, metric) (mtorl_experiment_guardrail_breached{NS, EXP})", "{{arm}}: {{metric}}"),
            {"0": ("within its margin", "green"), "1": ("breached", "red")},
            empty="no verdict yet",
        ),
    ]
    routers = [
        lines(
            "Decisions",
            "Answered a second, by arm.",
            [Query("sum by (arm) (rate(mtorl_decisions_total{NS, EXP}[5m]))", "{{arm}}")],
            unit=units.RequestsPerSecond,
        ),
        lines(
            "Exposed",
            "Share of an arm's decisions that expose.",
            [
                Query(
                    """sum by (arm) (rate(mtorl_decisions_total{NS, EXP, expose="true"}[5m]))
                    / sum by (arm) (rate(mtorl_decisions_total{NS, EXP}[5m]))""",
                    "{{arm}}",
                )
            ],
            unit=units.PercentUnit,
        ),
        lines(
            "Default actions",
            "Share of an arm's decisions. Unequal shares bias the comparison.",
            [
                Query(
                    """sum by (arm) (rate(mtorl_fallbacks_total{NS, EXP}[5m]))
                    / sum by (arm) (rate(mtorl_decisions_total{NS, EXP}[5m]))""",
                    "{{arm}}",
                )
            ],
            unit=units.PercentUnit,
            limit=limit("MtorlFallbackRatioHigh"),
            empty="none",
        ),
        lines(
            "p99 of decisions",
            "From request to answer, by arm. A challenger that is late is held.",
            [
                Query(
                    """histogram_quantile(0.99,
                    sum by (arm, le) (rate(mtorl_decision_latency_seconds_bucket{NS, EXP}[5m])))""",
                    "{{arm}}",
                )
            ],
            unit=units.Seconds,
            limit=limit("MtorlDecisionLatencyHigh"),
        ),
    ]
    money = [
        lines(
            "Spent",
            "Of an arm's limit, in the present period; arm *: all arms together.",
            [
                Query(
                    """max by (arm, period) (mtorl_experiment_spent{NS, EXP})
                    / (max by (arm, period) (mtorl_experiment_budget{NS, EXP}) > 0)""",
                    "{{arm}} ({{period}})",
                )
            ],
            unit=units.PercentUnit,
            limit=limit("MtorlBudgetNearlySpent"),
            empty="no operator",
        ),
        lines(
            "After a promotion",
            "What was promoted less the holdout, which keeps the previous incumbent, and its always-valid interval.",
            _interval("long_term_effect", ""),
            line_at=0,
            least=None,
            empty="not promoted, or no holdout",
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
    return Board(
        UID,
        "MTORL: experiment",
        "Where is an experiment, what is found, does it harm anybody, does it need a person?",
        "7d",
        [
            Section("", top),
            Section("Users and guardrails", users),
            Section("What the routers do", routers),
            Section("Money, and afterwards", money),
        ],
        experiment=True,
    )
