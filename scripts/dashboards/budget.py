"""Budget: is spend below the cap, as fast as planned, and what does an exposure cost?"""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from scripts.dashboards.board import Board, Section, alert_count, alert_list
from scripts.dashboards.limits import limit
from scripts.dashboards.panels import Column, Query, lines, rows, stat

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
            Query(_of_accounts("mtorl_budget_spent{NS}", "period", whole), "{{period}}"),
            width=3,
        ),
        stat(
            "Used of the amount",
            "Spent and reserved, as a share of what all arms together may spend.",
            Query(_of_accounts(used, "period", whole), "{{period}}"),
            unit=units.PercentUnit,
            limit=_USED,
            width=3,
        ),
        stat(
            "Spend an hour",
            "Currency units of the last hour, all arms together.",
            Query(f"max({_spend(_WHOLE, 'period')})"),
            width=3,
        ),
        stat(
            "Gone in",
            "When all is spent, if spend goes on as in the last hour. Longer than the period lasts: it is enough.",
            Query(
                f"""min({_of_accounts(left, "period", whole)}
                / ({_spend(_WHOLE, "period")} > 0)) * 3600"""
            ),
            unit=units.Seconds,
            empty="nothing is spent",
            width=3,
        ),
        stat(
            "Above a budget",
            "Money above the limit of the account where that is most, currency units. It must be 0: a budget is a "
            "hard cap.",
            Query("max(mtorl_budget_overrun{NS})"),
            limit=_BROKEN,
            width=3,
        ),
        stat(
            "Off the plan",
            "Of the account that is furthest ahead of its plan, or behind it. 1: pacing does all that it can.",
            Query('max({__name__=~"mtorl_budget_(ahead|behind)_ratio", namespace="$namespace"})'),
            limit=limit("MtorlBudgetTooFast"),
            empty="nothing is paced",
            width=3,
        ),
        stat(
            "Room of the ledger",
            "What its disk or its Redis still has. Once it is full, every decision is the default action.",
            Query("min(mtorl_ledger_free_bytes{NS} / mtorl_ledger_limit_bytes{NS})"),
            unit=units.PercentUnit,
            limit=limit("MtorlLedgerNearlyFull"),
            empty="not limited",
            width=3,
        ),
        alert_count(UID, width=3),
        alert_list(UID, [*_BY, "store", "persistentvolumeclaim"]),
        lines(
            "Used of the amount",
            "Spent and reserved, as a share of each arm's limit; arm *: all together. Once it is spent, the arm "
            "exposes nobody.",
            [Query(_of_accounts(used), _ACCOUNT)],
            unit=units.PercentUnit,
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
            [Query(_spend(', arm!="*"'), _ARM)],
            axis="currency units",
        ),
        lines(
            "Cost of an exposure",
            "Spent over exposed decisions of the last hour, in currency units. Costs arrive later than exposures.",
            [
                Query(
                    f"""{_spend(', arm!="*"')}
                    / (sum by (experiment, arm) (increase(mtorl_decisions_total{{NS, expose="true"}}[1h])) > 0)""",
                    _ARM,
                )
            ],
            axis="currency units",
        ),
        lines(
            "Reserved",
            "Exposures whose cost is not known yet, in currency units. What only grows waits for outcomes that do "
            "not come.",
            [Query(_of_accounts('mtorl_budget_reserved{NS, arm!="*"}'), _ACCOUNT)],
            axis="currency units",
        ),
        lines(
            "Reservations given back",
            "Within an hour, since no cost was reported in time. Many of them: the platform does not report costs.",
            [Query("sum(increase(mtorl_budget_expired_total{NS}[1h]))", "given back")],
        ),
    ]
    gap = "A gap of 1 is one at which pacing does all that it can, so above 2 no price holds it, or helps."
    ahead, behind = (_of_accounts(f"mtorl_budget_{way}_ratio{{NS}}") for way in ("ahead", "behind"))
    pacing = [
        lines(
            "Plan",
            "What pacing wants spent by now, and what is spent and reserved.",
            [
                Query(_of_accounts("mtorl_budget_planned{NS}"), f"{_ACCOUNT}: planned"),
                Query(_of_accounts("mtorl_budget_paced{NS}"), f"{_ACCOUNT}: spent"),
            ],
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
        lines(
            "Ahead of the plan",
            f"Of the account that is furthest ahead. {gap}",
            [Query(ahead, _ACCOUNT)],
            limit=limit("MtorlBudgetTooFast"),
            axis="gaps",
            empty="nothing is paced",
        ),
        lines(
            "Behind the plan",
            f"Of the account that is furthest behind. {gap}",
            [Query(behind, _ACCOUNT)],
            limit=limit("MtorlBudgetTooSlow"),
            axis="gaps",
            empty="nothing is paced",
        ),
        lines(
            "Fullest account",
            "Spent over limit of an arm's fullest account. One of a campaign may be full before the sum is.",
            [Query("max by (experiment, arm) (mtorl_budget_spend_ratio{NS})", _ARM)],
            unit=units.PercentUnit,
        ),
        lines(
            "Price",
            "Highest pacing price of an arm: the gain that a currency unit has to bring. 0: nothing is held back.",
            [Query("max by (experiment, arm) (mtorl_budget_price{NS})", _ARM)],
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
