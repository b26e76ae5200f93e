"""The drift dashboard: the monitor's findings of the last days, their cost, and whether the monitor works."""

from scripts.dashboards.board import Board, or_nothing
from scripts.dashboards.limits import color_of
from scripts.dashboards.panels import Column, Panel, duration, lines, rows, shares, stat

_BY = "group, experiment, arm, measure"
_STREAM = "{{group}} {{experiment}} {{arm}} {{measure}}"
_STANDS = f"and on (namespace, {_BY}) mtorl_monitor_alarm{{NS}} == 1"


def _of_alarms(what: str) -> str:
    """Query a figure of each measure with an alarm. A missing figure is NaN, so that the table keeps its column."""
    return f"max by ({_BY}) ({what}{{NS}} {_STANDS}) or max by ({_BY}) (mtorl_monitor_alarm{{NS}} == 1) * NaN"


def _count(title: str, kind: str, alert: str, description: str) -> Panel:
    alarms = f'count(max by ({_BY}) (mtorl_monitor_alarm{{NS, kind="{kind}"}}) == 1)'
    return stat(title, description, or_nothing(alarms), bad={1: color_of(alert)})


def _measures(title: str, description: str, which: str, legend: str, width: int = 12) -> Panel:
    return lines(
        title,
        f"{description} Expected: the value predicted from earlier days.",
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
        "Measures whose gain falls, or whose cost rises, by more than chance explains.",
    ),
    _count(
        "Broken columns",
        "data_quality",
        "MtorlDataBroken",
        "Columns read by the policy that have lost their values.",
    ),
    _count(
        "Moved", "drift", "MtorlDrift", "Other measures that differ from their expected values, without direct harm."
    ),
    stat(
        "Lost a day",
        "Daily loss by measure with a harm alarm: gain, or money if costs rise.",
        f"""max by (measure, counted_in) (mtorl_monitor_loss{{NS}}
            and on (namespace, {_BY}) mtorl_monitor_alarm{{NS, kind="harm"}} == 1)""",
        legend="{{measure}}, {{counted_in}}",
        bad={0: "red"},
        empty="nothing",
    ),
    stat(
        "Not judged",
        "Groups of measures that the monitor could not judge.",
        or_nothing('count(max by (group) (mtorl_monitor_not_judged{NS, reason!="learning"}) == 1)'),
        bad={1: color_of("MtorlNotJudged")},
    ),
    duration(
        "Age of the result",
        "Time since the hourly job ended.",
        "time() - max(mtorl_monitor_checked_timestamp_seconds{NS})",
        limit="MtorlMonitorStale",
        empty="no result",
    ),
    stat(
        "New training",
        "Whether the monitor requests a training. The new model must pass the gate as usual.",
        "max(mtorl_monitor_retrain_requested{NS})",
        texts={"0": ("not needed", "green"), "1": ("requested", color_of("MtorlRetrainRequested"))},
    ),
    rows(
        "Active alarms",
        "Measures with an alarm. For a column (group context), value is the distance to the training sample, and "
        "expected is its threshold. Evidence of 1 is enough for an alarm. Lost: per day, in the unit above.",
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
        "Gain per decision of all arms, as if no budget had run out.",
        'group="outcomes", measure="gain_per_decision"',
        "gain",
        8,
    ),
    _measures("Gain a currency unit", "For all arms.", 'group="outcomes", measure="gain_per_cost"', "gain", 8),
    _measures("Cost of an exposure", "In currency units.", 'group="outcomes", measure="cost_per_exposure"', "cost", 8),
]
_EVIDENCE = [
    lines(
        "Evidence of a change",
        "The ten measures with the most evidence. It accumulates over days, falls on normal days, and raises an alarm "
        "at 1.",
        {_STREAM: f'topk(10, max by ({_BY}) (mtorl_monitor_evidence_ratio{{NS, group!="context"}}))'},
        line_at=1,
    ),
    lines(
        "Columns relative to their thresholds",
        "Distance to the training sample / threshold, of the ten highest columns. Several days above 1 are an alarm.",
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
        "Calibration: observed over predicted outcomes. AUC, and the AUC expected from the model's probabilities. "
        "Distance of the users' states to those of the training; 1 is normal.",
        'group="performance"',
        "{{experiment}} {{arm}} {{measure}}",
    ),
    shares(
        "Decisions of the incumbent",
        "Shares of channels, exposures, default actions and spent budgets in the incumbent's decisions.",
        {"{{measure}}": f'max by ({_BY}) (mtorl_monitor_value{{NS, group="decisions", measure=~".+_ratio"}})'},
    ),
    lines(
        "Histories that the model reads",
        "Length in touchpoints, hours since the last one, share of users without history, shares of the last channel.",
        {"{{measure}}": f'max by ({_BY}) (mtorl_monitor_value{{NS, group="journeys"}})'},
    ),
    rows(
        "Groups",
        "Last judged period of each group.",
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
    "Findings of the monitor, their cost, and its health. Each day is judged once: docs/monitoring.md.",
    "30d",
    alerts=["group", "experiment", "arm", "measure"],
    sections={"": _TOP, "Gain and cost": _MONEY, "Evidence": _EVIDENCE, "More measures": _MORE},
)
