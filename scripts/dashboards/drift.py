"""Drift: what the monitor has found in the last days, what it costs, and whether it can see."""

from scripts.dashboards.board import Board, or_nothing
from scripts.dashboards.limits import color_of
from scripts.dashboards.panels import Column, Panel, duration, lines, rows, shares, stat

_BY = "group, experiment, arm, measure"
_STREAM = "{{group}} {{experiment}} {{arm}} {{measure}}"
_STANDS = f"and on (namespace, {_BY}) mtorl_monitor_alarm{{NS}} == 1"


def _of_alarms(what: str) -> str:
    """Query of each measure with an alarm; others get an empty number, so that columns keep their names."""
    return f"max by ({_BY}) ({what}{{NS}} {_STANDS}) or max by ({_BY}) (mtorl_monitor_alarm{{NS}} == 1) * NaN"


def _count(title: str, kind: str, alert: str, description: str) -> Panel:
    alarms = f'count(max by ({_BY}) (mtorl_monitor_alarm{{NS, kind="{kind}"}}) == 1)'
    return stat(title, description, or_nothing(alarms), bad={1: color_of(alert)})


def _measures(title: str, description: str, which: str, legend: str, width: int = 12) -> Panel:
    """Values of measures, beside what earlier days lead one to expect."""
    return lines(
        title,
        f"{description} Expected: what earlier days lead one to expect.",
        {
            legend: f"max by ({_BY}) (mtorl_monitor_value{{NS, {which}}})",
            f"{legend}: expected": f"max by ({_BY}) (mtorl_monitor_expected{{NS, {which}}})",
        },
        empty="not measured yet",
        width=width,
    )


_TOP = [
    _count(
        "Harm",
        "harm",
        "MtorlHarm",
        "Measures of gain that fall, and of cost that rise, for longer than chance explains.",
    ),
    _count(
        "Broken columns",
        "data_quality",
        "MtorlDataBroken",
        "Columns that the policy reads and that have lost their values.",
    ),
    _count(
        "Moved", "drift", "MtorlDrift", "Anything else that differs from what is usual, and does no harm by itself."
    ),
    stat(
        "Lost a day",
        "By the measures that stand for harm: gain, or money where costs rise.",
        f"""max by (measure, counted_in) (mtorl_monitor_loss{{NS}}
            and on (namespace, {_BY}) mtorl_monitor_alarm{{NS, kind="harm"}} == 1)""",
        legend="{{measure}}, {{counted_in}}",
        bad={0: "red"},
        empty="nothing",
    ),
    stat(
        "Not judged",
        "Groups of measures of which the monitor can't say whether anything is wrong.",
        or_nothing('count(max by (group) (mtorl_monitor_not_judged{NS, reason!="learning"}) == 1)'),
        bad={1: color_of("MtorlNotJudged")},
    ),
    duration(
        "Age of the result",
        "Since the hourly job ended.",
        "time() - max(mtorl_monitor_checked_timestamp_seconds{NS})",
        limit="MtorlMonitorStale",
        empty="no result",
    ),
    stat(
        "New training",
        "Whether the monitor asks for one. What is trained meets the gate as ever.",
        "max(mtorl_monitor_retrain_requested{NS})",
        texts={"0": ("not needed", "green"), "1": ("asked for", color_of("MtorlRetrainRequested"))},
    ),
    rows(
        "What stands",
        "Measures with an alarm. Of a column (group context), value is its distance to the training sample, and "
        "expected its threshold. Evidence: 1 is what an alarm needs alone. Lost: a day, in the unit above.",
        ["group", "experiment", "arm", "measure"],
        [
            *(Column(of, _of_alarms(f"mtorl_monitor_{of}")) for of in ("value", "expected")),
            Column("evidence", _of_alarms("mtorl_monitor_evidence_ratio")),
            Column("lost", _of_alarms("mtorl_monitor_loss")),
        ],
        empty="nothing has moved",
    ),
]
_MONEY = [
    _measures(
        "Gain a decision",
        "Of all arms, as if all budgets had lasted.",
        'group="outcomes", measure="gain_per_decision"',
        "gain",
        8,
    ),
    _measures("Gain a currency unit", "Of all arms.", 'group="outcomes", measure="gain_per_cost"', "gain", 8),
    _measures("Cost of an exposure", "In currency units.", 'group="outcomes", measure="cost_per_exposure"', "cost", 8),
]
_EVIDENCE = [
    lines(
        "Evidence of a change",
        "The ten measures that have most. 1 is what an alarm needs alone; it is added up over days, and falls "
        "on usual ones.",
        {_STREAM: f'topk(10, max by ({_BY}) (mtorl_monitor_evidence_ratio{{NS, group!="context"}}))'},
        line_at=1,
    ),
    lines(
        "Columns, over their thresholds",
        "The ten that are furthest. Distance to the training sample over its threshold: above 1 for days is an alarm.",
        {
            "{{measure}}": """topk(10, max by (measure) (
                mtorl_monitor_value{NS, group="context"} / (mtorl_monitor_expected{NS, group="context"} > 0)))"""
        },
        line_at=1,
    ),
]
_MORE = [
    _measures(
        "Predictions",
        "Calibration: what came, over what was expected. AUC, and what it should be by the model's own "
        "probabilities. Distance of the users' states to those of the training, of which 1 is usual.",
        'group="performance"',
        "{{experiment}} {{arm}} {{measure}}",
    ),
    shares(
        "Decisions of the incumbent",
        "Shares of channels, exposures, default actions and spent budgets in its decisions.",
        {"{{measure}}": f'max by ({_BY}) (mtorl_monitor_value{{NS, group="decisions", measure=~".+_ratio"}})'},
    ),
    lines(
        "Histories that the model reads",
        "Length in touchpoints, hours since the last one, shares of users without one and of its channel.",
        {"{{measure}}": f'max by ({_BY}) (mtorl_monitor_value{{NS, group="journeys"}})'},
    ),
    rows(
        "Groups",
        "What was judged last.",
        ["group"],
        [
            Column("until", "max by (group) (mtorl_monitor_period_end_timestamp_seconds{NS}) * 1000", "dateTimeAsIso"),
            Column("decisions", "max by (group) (mtorl_monitor_period_decisions{NS})"),
            Column("users", "max by (group) (mtorl_monitor_period_users{NS})"),
            Column(
                "judged",
                """1 - max by (group) (mtorl_monitor_not_judged{NS})
                or max by (group) (mtorl_monitor_period_users{NS} * 0 + 1)""",
                texts={"0": ("no", "orange"), "1": ("yes", "green")},
            ),
        ],
        empty="nothing yet",
    ),
]
BOARD = Board(
    "drift",
    "What has the monitor found, what does it cost, and can it see? Each day is judged once: docs/monitoring.md.",
    "30d",
    alerts=["group", "experiment", "arm", "measure"],
    sections={"": _TOP, "Gain and cost": _MONEY, "Evidence": _EVIDENCE, "More measures": _MORE},
)
