"""Decisions: are they asked for, what is decided, and what comes of it?"""

from scripts.dashboards.board import Board
from scripts.dashboards.panels import lines, rates, share, shares, stat

_ARM = "{{experiment}} {{arm}}"
_EXPOSED = 'mtorl_decisions_total{NS, expose="true"}'
_FOUND = """sum(rate(mtorl_features_total{NS, found="yes"}[5m])) / sum(rate(mtorl_features_total{NS}[5m]))"""


def _shares(window: str) -> str:
    """Share of each channel in the draws of an arm that could have been another one."""
    drawn = f"(increase(mtorl_drawn_channels_total{{NS}}[{window}]))"
    return f"""sum by (experiment, arm, channel) {drawn}
        / on (experiment, arm) group_left () sum by (experiment, arm) {drawn}"""


_TOP = [
    share(
        "Against yesterday",
        "Decisions of the last half hour, as a share of those of the same half hour yesterday.",
        """sum(increase(mtorl_decisions_total{NS}[30m]))
            / (sum(increase(mtorl_decisions_total{NS}[30m] offset 1d)) > 0)""",
        bad={0: "red", 0.5: "green"},
        empty="nothing yesterday",
    ),
    share(
        "Exposed",
        "Share of the decisions that expose: money is spent on them.",
        f"sum(rate({_EXPOSED}[5m])) / sum(rate(mtorl_decisions_total{{NS}}[5m]))",
    ),
    stat(
        "Outcomes",
        "Received a second: costs, clicks, conversions. Without them budgets are not settled, and nothing is learnt.",
        "sum(rate(mtorl_outcomes_total{NS}[5m]))",
        unit="eps",
    ),
    rates(
        "Decisions",
        "Answered a second, and at the same time yesterday.",
        {
            "now": "sum(rate(mtorl_decisions_total{NS}[5m]))",
            "yesterday": "sum(rate(mtorl_decisions_total{NS}[5m] offset 1d))",
        },
    ),
]
_DECIDED = [
    rates(
        "Decisions by arm",
        "Answered a second.",
        {_ARM: "sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m]))"},
        stacked=True,
    ),
    shares(
        "Exposed by arm",
        "Share of an arm's decisions that expose.",
        {
            _ARM: f"""sum by (experiment, arm) (rate({_EXPOSED}[5m]))
                / sum by (experiment, arm) (rate(mtorl_decisions_total{{NS}}[5m]))"""
        },
    ),
    shares(
        "Share of the channel that an arm prefers",
        "Over six hours, of draws that could have been another channel. Near 1 the arm no longer looks at who asks.",
        {_ARM + ": {{channel}}": f"topk by (experiment, arm) (1, {_shares('6h')})"},
        limit="MtorlPolicyCollapsed",
    ),
    shares(
        "Channels by arm",
        "Share of each channel in an arm's draws of the last half hour.",
        {_ARM + ": {{channel}}": _shares("30m")},
    ),
]
_KNOWN = [
    shares(
        "Users with a history",
        "Share of the decisions. The alert compares it with half of the last day's: below that, the store was "
        "emptied or is old.",
        {
            "now": _FOUND,
            "half of the last day's": """0.5 * sum(increase(mtorl_features_total{NS, found="yes"}[1d]))
                / sum(increase(mtorl_features_total{NS}[1d]))""",
        },
    ),
    rates(
        "Decisions in the shadow",
        "Of challengers at stage shadow, a second: answered, failed, or dropped for want of time.",
        {_ARM + ": {{result}}": "sum by (experiment, arm, result) (rate(mtorl_shadow_decisions_total{NS}[5m]))"},
        empty="no challenger is in the shadow",
    ),
]
_OUTCOMES = [
    lines(
        "Outcomes by kind",
        "Received a second, retries included.",
        {"{{kind}}": "sum by (kind) (rate(mtorl_outcomes_total{NS}[5m]))"},
        unit="eps",
    ),
    shares(
        "Outcomes that are not as usual",
        "Share of all: late, or not stored (failed).",
        {
            "{{status}}": """sum by (status) (rate(mtorl_outcomes_total{NS, status!="accepted"}[5m]))
                / on () group_left () sum(rate(mtorl_outcomes_total{NS}[5m]))"""
        },
        empty="none",
    ),
]
BOARD = Board(
    "decisions",
    "Are decisions asked for, what is decided, and what comes of it?",
    "6h",
    alerts=["experiment", "arm", "channel"],
    sections={"": _TOP, "What is decided": _DECIDED, "What is known of users": _KNOWN, "What comes of it": _OUTCOMES},
)
