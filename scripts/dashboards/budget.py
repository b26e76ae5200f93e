"""The budget dashboard: is spend below the limit and on plan, and what does an exposure cost?"""

from functools import partial

from scripts.dashboards.board import Board
from scripts.dashboards.panels import Column, duration, lines, rows, share, shares, stat

_BY = ["experiment", "arm", "period"]
_ARM = "{{experiment}} {{arm}}"
_ACCOUNT = f"{_ARM} ({{{{period}}}})"
_WHOLE = ', arm="*"'
_NS_WHOLE = f"NS{_WHOLE}"
_money = partial(lines, axis="currency units")


def _of_accounts(what: str, labels: str = "experiment, arm, period", which: str = "NS") -> str:
    """Query the maximum of a figure over all routers, because the routers of a ledger export the same value."""
    return f"max by ({labels}) ({what.replace('NS', which)})"


def _spend(which: str, labels: str = "experiment, arm") -> str:
    """Query the spend of the last hour. The function `increase` is right even after a reset to 0."""
    return f"max by ({labels}) (increase(mtorl_budget_spent{{NS{which}}}[1h]))"


_USED = "(mtorl_budget_spent{NS} + mtorl_budget_reserved{NS}) / (mtorl_budget_limit{NS} > 0)"
_LEFT = "mtorl_budget_limit{NS} - mtorl_budget_spent{NS} - mtorl_budget_reserved{NS}"
_TOP = [
    stat(
        "Spent",
        "Spend of all arms in the current period, in currency units.",
        _of_accounts("mtorl_budget_spent{NS}", "period", _NS_WHOLE),
        legend="{{period}}",
    ),
    share(
        "Used of the amount",
        "Spent and reserved money, as a share of the limit of all arms together.",
        _of_accounts(_USED, "period", _NS_WHOLE),
        legend="{{period}}",
        limit="MtorlBudgetNearlySpent",
    ),
    stat("Spend an hour", "Spend of all arms in the last hour, currency units.", f"max({_spend(_WHOLE, 'period')})"),
    duration(
        "Gone in",
        "Time until the budget is spent, at the rate of the last hour. Enough, if longer than the rest of the period.",
        f"""min({_of_accounts(_LEFT, "period", _NS_WHOLE)}
            / ({_spend(_WHOLE, "period")} > 0)) * 3600""",
        empty="no spend",
    ),
    stat(
        "Above a budget",
        "Money above the limit, in the account with the highest excess, currency units. Must be 0: a budget is a hard "
        "cap.",
        "max(mtorl_budget_overrun{NS})",
        limit="MtorlBudgetInvariantBroken",
    ),
    stat(
        "Off the plan",
        "Gap of the account furthest ahead of or behind its plan. At 1, pacing reacts as strongly as it can.",
        'max({__name__=~"mtorl_budget_(ahead|behind)_ratio", namespace="$namespace"})',
        limit="MtorlBudgetTooFast",
        empty="nothing is paced",
    ),
    share(
        "Room of the ledger",
        "Free share of the ledger's disk or Redis memory. If the ledger is full, every decision is the default action.",
        "min(mtorl_ledger_free_bytes{NS} / mtorl_ledger_limit_bytes{NS})",
        limit="MtorlLedgerNearlyFull",
        empty="not limited",
    ),
    shares(
        "Used of the amount",
        "Spent and reserved money, as a share of each arm's limit; arm *: all arms. At 100 %, the arm shows no ads.",
        {_ACCOUNT: _of_accounts(_USED)},
        limit="MtorlBudgetNearlySpent",
    ),
]
_ACCOUNTS = [
    rows(
        "Amounts",
        "Amounts of the current period, in currency units; arm *: all arms. Sums over campaigns, because a campaign is "
        "never a label.",
        _BY,
        [
            *(
                Column(of, _of_accounts(f"mtorl_budget_{of}{{NS}}"), decimals=2)
                for of in ("limit", "spent", "reserved")
            ),
            Column("left", _of_accounts(_LEFT), decimals=2),
            Column("excess", _of_accounts("mtorl_budget_excess{NS}"), decimals=2),
            Column("used", _of_accounts(_USED), "percentunit", "MtorlBudgetNearlySpent", decimals=1),
        ],
        width=24,
    ),
    _money(
        "Spend an hour", "In the last hour. Arms with equal shares should spend alike.", {_ARM: _spend(', arm!="*"')}
    ),
    _money(
        "Cost of an exposure",
        "Spend per exposed decision in the last hour, currency units. Costs arrive later than exposures.",
        {
            _ARM: f"""{_spend(', arm!="*"')}
                / (sum by (experiment, arm) (increase(mtorl_decisions_total{{NS, expose="true"}}[1h])) > 0)"""
        },
    ),
    _money(
        "Reserved",
        "Money reserved for exposures without a reported cost, currency units. If the value only grows, outcomes are "
        "missing.",
        {_ACCOUNT: _of_accounts('mtorl_budget_reserved{NS, arm!="*"}')},
    ),
    lines(
        "Reservations released",
        "Reservations of the last hour without a cost in time. If there are many, the platform does not report costs.",
        {"released": "sum(increase(mtorl_budget_expired_total{NS}[1h]))"},
    ),
]
_GAP = "At a gap of 1, pacing reacts as strongly as it can. Above 2, pacing has lost control of the spend."
_AHEAD, _BEHIND = (_of_accounts(f"mtorl_budget_{way}_ratio{{NS}}") for way in ("ahead", "behind"))
_PACING = [
    _money(
        "Plan",
        "Planned spend up to now, and the actual spend including reservations.",
        {
            f"{_ACCOUNT}: planned": _of_accounts("mtorl_budget_planned{NS}"),
            f"{_ACCOUNT}: spent": _of_accounts("mtorl_budget_paced{NS}"),
        },
        empty="nothing is paced",
    ),
    *(
        lines(
            title,
            f"Gap of the account furthest {way}. {_GAP}",
            {_ACCOUNT: expr},
            limit=alert,
            axis="gaps",
            empty="nothing is paced",
        )
        for title, way, expr, alert in (
            ("Ahead of the plan", "ahead", _AHEAD, "MtorlBudgetTooFast"),
            ("Behind the plan", "behind", _BEHIND, "MtorlBudgetTooSlow"),
        )
    ),
    lines(
        "Price",
        "Highest pacing price of an arm: the gain that a currency unit must bring. 0: no exposure is held back.",
        {_ARM: "max by (experiment, arm) (mtorl_budget_price{NS})"},
        axis="gain per currency unit",
    ),
]
BOARD = Board(
    "budget",
    "Is spend below the cap and on plan, and what does an exposure cost?",
    "24h",
    alerts=[*_BY, "store", "persistentvolumeclaim"],
    sections={"": _TOP, "Accounts": _ACCOUNTS, "Pacing": _PACING},
)
