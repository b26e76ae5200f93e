"""Tables of `mtorl experiment plan` and `verdict --shadow`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from cli.tables import titled, with_interval

if TYPE_CHECKING:
    from mtorl.evaluation.exploration_plan import ExplorationPlan
    from mtorl.evaluation.shadow import ShadowReport


def print_shadow(report: ShadowReport) -> None:
    """Print what a challenger would have done, and by segment, if segments were asked for."""
    from mtorl.evaluation.shadow import in_words

    console = Console()
    typer.echo("\n".join(in_words(report)))
    for column, segments in report["segments"].items():
        table = titled(f"by {column}", column, "decisions", "same action", "gain per decision, difference")
        for segment in segments:
            agreement, value = segment["agreement"], segment["value"]
            table.add_row(
                "unknown" if segment["segment"] is None else segment["segment"],
                f"{segment['decisions']:,}",
                f"{agreement['same_action']:.1%}",
                with_interval(dict(value), "difference", "+", 4) if value else "not known",
            )
        console.print(table)
        if smaller := report["decisions"] - sum(segment["decisions"] for segment in segments):
            typer.echo(f"{smaller:,} decisions are of smaller segments")


def print_exploration(plan: ExplorationPlan, decisions_a_day: float) -> None:
    """Print what exploring would cost and teach; in days, if it is known how many decisions there are in one."""
    from mtorl.evaluation.exploration_plan import in_words

    typer.echo("\n".join(in_words(plan)))
    title = f"what exploring costs, and when a difference of {plan.lift:.0%} is told"
    per, told = ("a day", "told after, days") if decisions_a_day else ("per 1,000 decisions", "told after, decisions")
    columns = ("scope", "share", f"gain lost {per}", "of the gain", "never made", "left to forecasts", told)
    table = titled(title, *columns)
    for option in plan.options:
        told_after = option.told_after if option.judged else None
        after = "never" if told_after is None else f"{told_after / (decisions_a_day or 1):,.0f}"
        table.add_row(
            option.scope if option.share else "none",
            f"{option.share:.0%}",
            f"{option.cost * (decisions_a_day or 1000):,.2f}",
            f"{option.cost_share:.1%}",
            f"{option.impossible:.0%}",
            f"{option.forecast - option.impossible:.0%}",
            after,
        )
    Console().print(table)


def print_plan(plan: dict[str, Any]) -> None:
    """Print what an experiment needs."""
    seen, adjustment = plan["seen"], plan["adjustment"]
    after = f" after the {_span(seen['past_days'])} of their past" if seen["past_days"] else ""
    lines = [
        f"seen: {seen['users']:,} users of the incumbent in {_span(seen['days'])}{after}, {seen['decisions']:,} "
        f"decisions, {seen['value']:.4g} {seen['unit']}",
        f"to find {plan['effect']:+.1%} with a share of {plan['share']:.0%}, looked at whenever people like, takes "
        f"about {plan['users']:,} users",
        f"which found it in {plan['power']:.0%} of {plan['runs']:,} experiments that were played",
        f"decisions of these users: {plan['decisions']:,.0f}, for {plan['cost']:,.2f} at the incumbent's cost",
    ]
    if (days := plan["days"]) is None:
        lines.append("days: not known from less than a day; say --users-a-day")
    else:
        lines.append(f"days at the last stage: {days:,.2f}")
    if adjustment is not None:
        lines.append(_what_covariates_bring(adjustment))
    typer.echo("\n".join(lines))


def _span(days: float) -> str:
    """A time in the unit that tells it."""
    if days >= 1:
        return f"{days:.2f} days"
    return f"{24 * days:.1f} hours" if 24 * days >= 1 else f"{1440 * days:.0f} minutes"


def _what_covariates_bring(adjustment: dict[str, Any]) -> str:
    names, without = ", ".join(adjustment["covariates"]), adjustment["without"]
    takes = "more users than anybody waits for"
    if without is not None:
        days = "" if without["days"] is None else f" and {without['days']:,.2f} days"
        takes = f"about {without['users']:,} users{days}"
    return (
        f"that counts on covariates ({names}), which are known of {adjustment['users_share']:.0%} of these users and "
        f"explain {adjustment['explained']:.0%} of the variance; without them it takes {takes}"
    )
