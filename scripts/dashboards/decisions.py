"""The decisions dashboard: do requests arrive, which decisions are made, and which outcomes follow?"""

from scripts.dashboards.board import Board
from scripts.dashboards.panels import lines, rates, share, shares, stat

_ARM = "{{experiment}} {{arm}}"
_EXPOSED = 'mtorl_decisions_total{NS, expose="true"}'
_FOUND = """sum(rate(mtorl_features_total{NS, found="yes"}[5m])) / sum(rate(mtorl_features_total{NS}[5m]))"""


def _shares(window: str) -> str:
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
        "Share of decisions with an exposure, which costs money.",
        f"sum(rate({_EXPOSED}[5m])) / sum(rate(mtorl_decisions_total{{NS}}[5m]))",
    ),
    stat(
        "Outcomes",
        "Outcomes received per second: costs, clicks, conversions. Budget settlement and training depend on them.",
        "sum(rate(mtorl_outcomes_total{NS}[5m]))",
        unit="eps",
    ),
    rates(
        "Decisions",
        "Decisions per second, now and at the same time yesterday.",
        {
            "now": "sum(rate(mtorl_decisions_total{NS}[5m]))",
            "yesterday": "sum(rate(mtorl_decisions_total{NS}[5m] offset 1d))",
        },
    ),
]
_DECIDED = [
    rates(
        "Decisions by arm",
        "Decisions per second.",
        {_ARM: "sum by (experiment, arm) (rate(mtorl_decisions_total{NS}[5m]))"},
        stacked=True,
    ),
    shares(
        "Exposed by arm",
        "Share of an arm's decisions with an exposure.",
        {
            _ARM: f"""sum by (experiment, arm) (rate({_EXPOSED}[5m]))
                / sum by (experiment, arm) (rate(mtorl_decisions_total{{NS}}[5m]))"""
        },
    ),
    shares(
        "Share of each arm's most frequent channel",
        "Share in six hours of random draws between several channels. Near 1, the arm ignores the user.",
        {_ARM + ": {{channel}}": f"topk by (experiment, arm) (1, {_shares('6h')})"},
        limit="MtorlPolicyCollapsed",
    ),
    shares(
        "Channels by arm",
        "Share of each channel in an arm's random draws of the last half hour.",
        {_ARM + ": {{channel}}": _shares("30m")},
    ),
]
_KNOWN = [
    shares(
        "Users with a history",
        "Share of decisions for users with a stored history. The alert fires below half of the last day's share: then "
        "the store is empty or outdated.",
        {
            "now": _FOUND,
            "half of the last day's": """0.5 * sum(increase(mtorl_features_total{NS, found="yes"}[1d]))
                / sum(increase(mtorl_features_total{NS}[1d]))""",
        },
    ),
    rates(
        "Decisions in the shadow",
        "Decisions per second of challengers at stage shadow: answered, failed, or dropped for lack of time.",
        {_ARM + ": {{result}}": "sum by (experiment, arm, result) (rate(mtorl_shadow_decisions_total{NS}[5m]))"},
        empty="no challenger is in the shadow",
    ),
]
_OUTCOMES = [
    lines(
        "Outcomes by kind",
        "Outcomes received per second, including retries.",
        {"{{kind}}": "sum by (kind) (rate(mtorl_outcomes_total{NS}[5m]))"},
        unit="eps",
    ),
    shares(
        "Late or failed outcomes",
        "Share of outcomes that were late, or not stored (failed).",
        {
            "{{status}}": """sum by (status) (rate(mtorl_outcomes_total{NS, status!="accepted"}[5m]))
                / on () group_left () sum(rate(mtorl_outcomes_total{NS}[5m]))"""
        },
        empty="none",
    ),
]
BOARD = Board(
    "decisions",
    "Do requests arrive, which decisions are made, and which outcomes follow?",
    "6h",
    alerts=["experiment", "arm", "channel"],
    sections={"": _TOP, "Decisions": _DECIDED, "Users and shadow": _KNOWN, "Outcomes": _OUTCOMES},
)
