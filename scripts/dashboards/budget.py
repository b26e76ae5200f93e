"""Budget: is spend below the cap, as fast as planned, and what does an exposure cost?"""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from scripts.dashboards.board import Board, Section, alert_count, alert_list
from scripts.dashboards.limits import limit
from scripts.dashboards.panels import Column, duration, lines, rows, share, shares, stat

UID = "mtorl-budget"
_BY = ["experiment", "arm", "period"]
_ARM = "{{experiment}} {{arm}}"
_ACCOUNT = f"{_ARM} ({{{{period}}}})"
_WHOLE = ', arm="*"'
_USED = limit("MtorlBudgetNearlySpent")
_BROKEN = limit("MtorlBudgetInvariantBroken")


def _of_accounts(what: str, labels: str = "experiment, arm, period", which: str = "NS") -> str:
    """Routers that share a ledger all show the same."""
    return f"max by ({labels}) ({what.replace('NS', which)})"


def _spend(which: str, labels: str = "experiment, arm") -> str:
    """Currency units of the last hour. A new period begins at 0: to `increase` a counter that begins anew."""
    return f"max by ({labels}) (increase(mtorl_budget_spent{{NS{which}}}[1h]))"


def board() -> Board:
    """The dashboard."""
    used = "(mtorl_budget_spent{NS} + mtorl_budget_reserved{NS}) / (mtorl_budget_limit{NS} > 0)"
    whole = f"NS{_WHOLE}"
    left = "mtorl_budget_limit{NS} - mtorl_budget_spent{NS} - mtorl_budget_reserved{NS}"
    top = [
        stat(
            "Spent",
            "Of all arms together in the present period, in currency units.",
            _of_accounts("mtorl_budget_spent{NS}", "period", whole),
            legend="{{period}}",
        ),
        share(
            "Used of the amount",
            "Spent and reserved, as a share of what all arms together may spend.",
            _of_accounts(used, "period", whole),
            legend="{{period}}",
            limit=_USED,
        ),
        stat(
            "Spend an hour",
            "Currency units of the last hour, all arms together.",
            f"max({_spend(_WHOLE, 'period')})",
        ),
        duration(
            "Gone in",
            "When all is spent, if spend goes on as in the last hour. Longer than the period lasts: it is enough.",
            f"""min({_of_accounts(left, "period", whole)}
                / ({_spend(_WHOLE, "period")} > 0)) * 3600""",
            empty="nothing is spent",
        ),
        stat(
            "Above a budget",
            "Money above the limit of the account where that is most, currency units. It must be 0: a budget is a "
            "hard cap.",
            "max(mtorl_budget_overrun{NS})",
            limit=_BROKEN,
        ),
        stat(
            "Off the plan",
            "Of the account that is furthest ahead of its plan, or behind it. 1: pacing does all that it can.",
            'max({__name__=~"mtorl_budget_(ahead|behind)_ratio", namespace="$namespace"})',
            limit=limit("MtorlBudgetTooFast"),
            empty="nothing is paced",
        ),
        share(
            "Room of the ledger",
            "What its disk or its Redis still has. Once it is full, every decision is the default action.",
            "min(mtorl_ledger_free_bytes{NS} / mtorl_ledger_limit_bytes{NS})",
            limit=limit("MtorlLedgerNearlyFull"),
            empty="not limited",
        ),
        alert_count(UID),
        alert_list(UID, [*_BY, "store", "persistentvolumeclaim"]),
        shares(
            "Used of the amount",
            "Spent and reserved, as a share of each arm's limit; arm *: all together. Once it is spent, the arm "
            "exposes nobody.",
            {_ACCOUNT: _of_accounts(used)},
            limit=_USED,
        ),
    ]
    accounts = [
        rows(
            "Amounts",
            "Of the present period, in currency units; arm *: all arms together. A campaign is no label: these are "
            "sums over campaigns.",
            _BY,
            [
                Column("limit", _of_accounts("mtorl_budget_limit{NS}"), decimals=2),
                Column("spent", _of_accounts("mtorl_budget_spent{NS}"), decimals=2),
                Column("reserved", _of_accounts("mtorl_budget_reserved{NS}"), decimals=2),
                Column("left", _of_accounts(left), decimals=2),
                Column("excess", _of_accounts("mtorl_budget_excess{NS}"), decimals=2),
                Column("used", _of_accounts(used), units.PercentUnit, _USED, decimals=1),
            ],
            width=24,
        ),
        lines(
            "Spend an hour",
            "Of the last hour. Arms with equal shares should spend alike.",
            {_ARM: _spend(', arm!="*"')},
            axis="currency units",
        ),
        lines(
            "Cost of an exposure",
            "Spent over exposed decisions of the last hour, in currency units. Costs arrive later than exposures.",
            {
                _ARM: f"""{_spend(', arm!="*"')}
                    / (sum by (experiment, arm) (increase(mtorl_decisions_total{{NS, expose="true"}}[1h])) > 0)"""
            },
            axis="currency units",
        ),
        lines(
            "Reserved",
            "Exposures whose cost is not known yet, in currency units. What only grows waits for outcomes that do "
            "not come.",
            {_ACCOUNT: _of_accounts('mtorl_budget_reserved{NS, arm!="*"}')},
            axis="currency units",
        ),
        lines(
            "Reservations given back",
            "Within an hour, since no cost was reported in time. Many of them: the platform does not report costs.",
            {"given back": "sum(increase(mtorl_budget_expired_total{NS}[1h]))"},
        ),
    ]
    gap = "A gap of 1 is one at which pacing does all that it can, so above 2 no price holds it, or helps."
    ahead, behind = (_of_accounts(f"mtorl_budget_{way}_ratio{{NS}}") for way in ("ahead", "behind"))
    pacing = [
        lines(
            "Plan",
            "What pacing wants spent by now, and what is spent and reserved.",
            {
                f"{_ACCOUNT}: planned": _of_accounts("mtorl_budget_planned{NS}"),
                f"{_ACCOUNT}: spent": _of_accounts("mtorl_budget_paced{NS}"),
            },
            axis="currency units",
            empty="nothing is paced",
        ),
        rows(
            "Off the plan",
            f"Of the account that is furthest. {gap}",
            _BY,
            [
                Column("ahead", ahead, limit=limit("MtorlBudgetTooFast"), decimals=2),
                Column("behind", behind, limit=limit("MtorlBudgetTooSlow"), decimals=2),
            ],
            empty="nothing is paced",
        ),
        *(
            lines(
                title,
                f"Of the account that is furthest {way}. {gap}",
                {_ACCOUNT: expr},
                limit=limit(alert),
                axis="gaps",
                empty="nothing is paced",
            )
            for title, way, expr, alert in (
                ("Ahead of the plan", "ahead", ahead, "MtorlBudgetTooFast"),
                ("Behind the plan", "behind", behind, "MtorlBudgetTooSlow"),
            )
        ),
        shares(
            "Fullest account",
            "Spent over limit of an arm's fullest account. One of a campaign may be full before the sum is.",
            {_ARM: "max by (experiment, arm) (mtorl_budget_spend_ratio{NS})"},
        ),
        lines(
            "Price",
            "Highest pacing price of an arm: the gain that a currency unit has to bring. 0: nothing is held back.",
            {_ARM: "max by (experiment, arm) (mtorl_budget_price{NS})"},
            axis="gain per currency unit",
        ),
    ]
    return Board(
        UID,
        "MTORL: budget",
        "Is spend below the cap, as fast as planned, and what does an exposure cost?",
        "24h",
        [Section("", top), Section("Accounts", accounts), Section("Pacing", pacing)],
    )
