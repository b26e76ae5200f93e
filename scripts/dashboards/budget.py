"""Budget: is spend below the cap, as fast as planned, and what does an exposure cost?"""

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
    """Routers that share a ledger all show the same."""
    return f"max by ({labels}) ({what.replace('NS', which)})"


def _spend(which: str, labels: str = "experiment, arm") -> str:
    """Currency units of the last hour. A new period begins at 0: to `increase` a counter that begins anew."""
    return f"max by ({labels}) (increase(mtorl_budget_spent{{NS{which}}}[1h]))"


_USED = "(mtorl_budget_spent{NS} + mtorl_budget_reserved{NS}) / (mtorl_budget_limit{NS} > 0)"
_LEFT = "mtorl_budget_limit{NS} - mtorl_budget_spent{NS} - mtorl_budget_reserved{NS}"
_TOP = [
    stat(
        "Spent",
        "Of all arms together in the present period, in currency units.",
        _of_accounts("mtorl_budget_spent{NS}", "period", _NS_WHOLE),
        legend="{{period}}",
    ),
    share(
        "Used of the amount",
        "Spent and reserved, as a share of what all arms together may spend.",
        _of_accounts(_USED, "period", _NS_WHOLE),
        legend="{{period}}",
        limit="MtorlBudgetNearlySpent",
    ),
    stat("Spend an hour", "Currency units of the last hour, all arms together.", f"max({_spend(_WHOLE, 'period')})"),
    duration(
        "Gone in",
        "When all is spent, if spend goes on as in the last hour. Longer than the period lasts: it is enough.",
        f"""min({_of_accounts(_LEFT, "period", _NS_WHOLE)}
            / ({_spend(_WHOLE, "period")} > 0)) * 3600""",
        empty="nothing is spent",
    ),
    stat(
        "Above a budget",
        "Money above the limit of the account where that is most, currency units. It must be 0: a budget is a "
        "hard cap.",
        "max(mtorl_budget_overrun{NS})",
        limit="MtorlBudgetInvariantBroken",
    ),
    stat(
        "Off the plan",
        "Of the account that is furthest ahead of its plan, or behind it. 1: pacing does all that it can.",
        'max({__name__=~"mtorl_budget_(ahead|behind)_ratio", namespace="$namespace"})',
        limit="MtorlBudgetTooFast",
        empty="nothing is paced",
    ),
    share(
        "Room of the ledger",
        "What its disk or its Redis still has. Once it is full, every decision is the default action.",
        "min(mtorl_ledger_free_bytes{NS} / mtorl_ledger_limit_bytes{NS})",
        limit="MtorlLedgerNearlyFull",
        empty="not limited",
    ),
    shares(
        "Used of the amount",
        "Spent and reserved, as a share of each arm's limit; arm *: all together. At 100 %, the arm shows no ad.",
        {_ACCOUNT: _of_accounts(_USED)},
        limit="MtorlBudgetNearlySpent",
    ),
]
_ACCOUNTS = [
    rows(
        "Amounts",
        "Of the present period, in currency units; arm *: all arms together. A campaign is no label: these are "
        "sums over campaigns.",
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
        "Spend an hour", "Of the last hour. Arms with equal shares should spend alike.", {_ARM: _spend(', arm!="*"')}
    ),
    _money(
        "Cost of an exposure",
        "Spent over exposed decisions of the last hour, in currency units. Costs arrive later than exposures.",
        {
            _ARM: f"""{_spend(', arm!="*"')}
                / (sum by (experiment, arm) (increase(mtorl_decisions_total{{NS, expose="true"}}[1h])) > 0)"""
        },
    ),
    _money(
        "Reserved",
        "Exposures whose cost is not known yet, in currency units. What only grows waits for outcomes that do "
        "not come.",
        {_ACCOUNT: _of_accounts('mtorl_budget_reserved{NS, arm!="*"}')},
    ),
    lines(
        "Reservations given back",
        "Within an hour, since no cost was reported in time. Many of them: the platform does not report costs.",
        {"given back": "sum(increase(mtorl_budget_expired_total{NS}[1h]))"},
    ),
]
_GAP = "A gap of 1 is one at which pacing does all that it can, so above 2 no price holds it, or helps."
_AHEAD, _BEHIND = (_of_accounts(f"mtorl_budget_{way}_ratio{{NS}}") for way in ("ahead", "behind"))
_PACING = [
    _money(
        "Plan",
        "What pacing wants spent by now, and what is spent and reserved.",
        {
            f"{_ACCOUNT}: planned": _of_accounts("mtorl_budget_planned{NS}"),
            f"{_ACCOUNT}: spent": _of_accounts("mtorl_budget_paced{NS}"),
        },
        empty="nothing is paced",
    ),
    *(
        lines(
            title,
            f"Of the account that is furthest {way}. {_GAP}",
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
        "Highest pacing price of an arm: the gain that a currency unit has to bring. 0: nothing is held back.",
        {_ARM: "max by (experiment, arm) (mtorl_budget_price{NS})"},
        axis="gain per currency unit",
    ),
]
BOARD = Board(
    "budget",
    "Is spend below the cap, as fast as planned, and what does an exposure cost?",
    "24h",
    alerts=[*_BY, "store", "persistentvolumeclaim"],
    sections={"": _TOP, "Accounts": _ACCOUNTS, "Pacing": _PACING},
)
