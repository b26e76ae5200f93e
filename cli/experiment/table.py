"""Prints the state, the verdict and the plan of experiments in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from cli.experiment.shared import shares_in_words
from cli.tables import titled, with_interval
from monitoring.plain_words import account, heavy, left_out, moved, named_in, of_arms
from mtorl.pages.words import duration

if TYPE_CHECKING:
    from monitoring.experiments.document import Need, Step, View
    from monitoring.verdict.segments import Segments
    from mtorl.evaluation.exploration_plan import ExplorationPlan
    from mtorl.evaluation.shadow import ShadowReport

_STYLES = {"good": "bold green", "alarm": "bold red", "open": "bold"}
_PLACES = {"past": ("●", "blue"), "skipped": ("◌", "dim"), "here": ("◉", "bold blue"), "ahead": ("○", "dim")}
_BAR = 20


def print_experiments(views: Sequence[View]) -> None:
    """Print a single experiment in full, or several experiments in short."""
    parts = _whole(views[0]) if len(views) == 1 else (Group(_head(v), _steps(v["steps"]), _next(v)) for v in views)
    Console().print(_spaced(parts), highlight=False)


def print_verdict(verdict: Mapping[str, Any]) -> None:
    """Print a verdict with its arms, checks and notes."""
    headline = Text(f"{verdict['experiment']}: {verdict['verdict']}: {verdict['reason']}")
    Console().print(_spaced([headline, *_verdict(verdict)]), highlight=False)


def _spaced(parts: Iterable[RenderableType]) -> Group:
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _whole(view: View) -> Iterator[RenderableType]:
    yield _head(view)
    yield _steps(view["steps"])
    if view["next"]["needs"]:
        yield _needs(view["next"]["needs"])
    yield _next(view)
    verdict = view["verdict"] or {}
    if verdict.get("users"):
        yield from _verdict(verdict)
    elif view["traffic"] is not None:
        yield _decided(view)
    if view["spend"]:
        yield _spend(view)
    if view["events"]:
        yield Text("\n".join(_events(view)))


def _head(view: View) -> Text:
    advice = view["advice"]
    off = "" if view["enabled"] else ", switched off"
    text = Text(f"{view['name']}: {view['phase']}{off}", style="dim")
    if view["since"] is not None:
        text.append(f" since {_time(view['since'])}")
    text.append(f": {shares_in_words({arm['name']: arm['share'] for arm in view['plan']['arms']})}")
    text.append(f"\n{advice['headline']}\n", style=_STYLES[advice["tone"]])
    text.append(advice["reason"], style="not dim")
    if advice["command"] is not None:
        text.append(f"\n{advice['command']}", style="cyan not dim")
    return text


def _steps(steps: Sequence[Step]) -> Text:
    text = Text()
    for number, step in enumerate(steps):
        if number:
            text.append(" ─── ", style="dim")
        mark, style = _PLACES[step["place"]]
        text.append(f"{mark} {step['phase']}", style=style)
        if step["place"] == "skipped":
            text.append(" skipped", style=style)
    return text


def _needs(needs: Sequence[Need]) -> Table:
    table = Table.grid(padding=(0, 2))
    for need in needs:
        colour = "green" if need["met"] else "red" if need["limit"] else "blue"
        done = round(_BAR * need["share"])
        bar = Text("━" * done, style=colour).append("─" * (_BAR - done), style="bright_black")
        mark = "✓" if need["met"] else "✗" if need["limit"] else "…"
        table.add_row(Text(mark, style=colour), bar, Text(need["words"]))
    return table


def _next(view: View) -> Text:
    after = view["next"]
    text = Text("; ".join(([f"next: {after['to']}"] if after["to"] is not None else []) + after["waits"]))
    when = []
    if after["not_before"] is not None:
        when.append(f"{'That is on' if view['phase'] == 'draft' else 'Not before'} {_time(after['not_before'])}")
    if after["expected"] is not None:
        when.append(f"{'at' if when else 'At'} the rate so far, about {_time(after['expected'])}")
    if when:
        text.append(f"\n{'; '.join(when)}.")
    if (newest := view["newest"]) is not None:
        age = f"the newest decision in the log is {duration(newest['age_seconds'])} old"
        text.append(f"\n{newest['silence'] or age}", style="" if newest["silence"] is None else "red")
    # None means unknown, because this command does not ask the routers of a cluster.
    if view["in_force"] is False:
        text.append("\nThe file or the history has changed. The change has not reached the routers yet.", style="red")
    return text


def _verdict(verdict: Mapping[str, Any]) -> Iterator[RenderableType]:
    challengers, units = verdict["challengers"], verdict["units"]
    columns = ("challenger", "verdict", "effect", "relative", "always-valid interval")
    effects = titled(f"effect, {named_in(verdict['metric'], units)}", *columns)
    for name, found in challengers.items():
        relative = _signed(found["relative_lift"], "+.1%")
        cells = (name, found["verdict"], _signed(found["lift"]), relative, _interval(found["lift_ci"]))
        effects.add_row(*map(Text, cells))
    yield effects
    yield Text("\n").join(_checks(verdict))
    metrics = of_arms(verdict)[:2]
    arms = _by_arm("users", "decisions", "exposures", *(label for _, label in metrics))
    for name, arm in verdict["arms"].items():
        counts = (f"{arm[key]:,}" for key in ("users", "decisions", "exposures"))
        means = (arm["metrics"][metric] for metric, _ in metrics)
        arms.add_row(Text(name), *counts, *("-" if mean is None else f"{mean:.4f}" for mean in means))
    yield arms
    if notes := list(_notes(verdict)):
        yield Text("\n".join(notes))
    if segments := verdict.get("segments"):
        yield from _segments(segments, verdict["alpha"])


def _checks(verdict: Mapping[str, Any]) -> Iterator[Text]:
    p, void, challengers = verdict["srm_p"], verdict["verdict"] == "srm", verdict["challengers"]
    said = f"{'no' if void else 'ok'} (p = {p:.2g})"
    yield Text("users are split as configured: ").append(said, style="bold red" if void else "green")
    for name, found in challengers.items():
        if len(challengers) > 1:
            yield Text(f"{name}: {found['verdict']}: {found['reason']}")
        for check in found["guardrails"]:
            line = Text(f"guardrail {name + ', ' if len(challengers) > 1 else ''}")
            line.append(f"{named_in(check['name'], verdict['units'])}: ")
            line.append(check["state"], style={"breached": "bold red", "held": "green", "open": ""}[check["state"]])
            bounds = _interval([check["lower"], check["upper"]])
            yield line.append(f", harm {_signed(check['harm'])} {bounds}, {check['margin']:g} allowed")


def _notes(verdict: Mapping[str, Any]) -> Iterator[str]:
    if said := moved(verdict["moved_users"]):
        yield f"{verdict['users']:,} users in all: {said}"
    for reason, count in verdict["left_out"].items():
        yield f"left out: {count:,} {left_out(reason)}"
    for user in verdict["heavy_users"]:
        yield heavy(user["arm"], user["share"])


def _segments(segments: Segments, alpha: float) -> Iterator[RenderableType]:
    for column, lifts in segments["lifts"].items():
        columns = (column, "arm", "users", "decisions", "lift per decision")
        table = titled(f"by {column}, not part of the verdict", *columns)
        for lift in lifts:
            segment = "unknown" if lift["segment"] is None else lift["segment"]
            what = with_interval(dict(lift), "lift", "+", 4) if lift["lift_ci"] else "not known yet"
            cells = (segment, lift["challenger"], f"{lift['users']:,}", f"{lift['decisions']:,}", what)
            table.add_row(*map(Text, cells))
        yield table
        if smaller := segments["smaller"][column]:
            yield Text(f"{smaller:,} decisions belong to smaller segments")
    yield Text(
        f"All of these intervals hold jointly with {1 - alpha:.0%} confidence at every look, so each is wide "
        f"({segments['confidence']:.2%}). Looking at more columns later raises the chance of a false finding."
    )


def _decided(view: View) -> Table:
    traffic = view["traffic"]
    assert traffic is not None
    table = _by_arm("decisions", "exposures", "default actions")
    table.title, table.title_justify = "in the shadow" if traffic["shadow"] else None, "left"
    for name, arm in traffic["arms"].items():
        table.add_row(Text(name), f"{arm['decisions']:,}", f"{arm['exposures']:,}", f"{arm['fallbacks']:,}")
    return table


def _by_arm(*figures: str) -> Table:
    return Table("arm", *(Column(name, justify="right") for name in figures))


def _spend(view: View) -> Text:
    lines, arms = [], {spend["arm"] for spend in view["spend"]}
    for spend in view["spend"]:
        scope = [name for name in (spend["campaign"], spend["channel"]) if name != "*"]
        when = "" if spend["period"] == "total" else f" this {spend['period']}"
        who = account(spend["arm"], arms)
        of = f" ({', '.join(scope)})" if scope else ""
        share = f" ({spend['spent'] / spend['limit']:.1%})" if spend["limit"] > 0 else ""
        lines.append(f"{who}{of}: {spend['spent']:,.2f} of {spend['limit']:,.2f} {view['currency']} spent{when}{share}")
    return Text("\n".join(lines))


def _events(view: View) -> Iterator[str]:
    for event in view["events"]:
        who = "" if event["challenger"] is None else f" {event['challenger']}"
        yield f"{_time(event['at'])}  {event['what']}{who} by {event['by']}: {event['reason']}"


def _signed(value: float | None, form: str = "+.4f") -> str:
    return "-" if value is None else format(value, form)


def _interval(ends: Any) -> str:
    if not ends or None in ends:
        return "too few users"
    return f"[{_signed(ends[0])}, {_signed(ends[1])}]"


def _time(iso: str) -> str:
    return f"{iso[:10]} {iso[11:16]} UTC"


def print_shadow(report: ShadowReport) -> None:
    """Print the report about a challenger in the shadow."""
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
            typer.echo(f"{smaller:,} decisions belong to smaller segments")


def print_exploration(plan: ExplorationPlan, decisions_a_day: float) -> None:
    """Print a table with the cost of exploration, and how long it takes to detect an effect.

    The table counts in days or, if `decisions_a_day` is 0, in decisions.
    """
    from mtorl.evaluation.exploration_plan import in_words

    typer.echo("\n".join(in_words(plan)))
    title = f"what exploring costs, and when a difference of {plan.lift:.0%} is found"
    per, told = ("a day", "found after, days") if decisions_a_day else ("per 1,000 decisions", "found after, decisions")
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
    """Print the users, decisions, days and money that an experiment needs."""
    seen = plan["seen"]
    lines = [
        f"seen: {seen['users']:,} users of the incumbent in {_span(seen['days'])}, {seen['decisions']:,} "
        f"decisions, {seen['value']:.4g} {seen['unit']}",
        f"to detect {plan['effect']:+.1%} with a share of {plan['share']:.0%}, checked as often as you like, takes "
        f"about {plan['users']:,} users",
        f"with these users, {plan['power']:.0%} of {plan['runs']:,} simulated experiments detected the effect",
        f"decisions of these users: {plan['decisions']:,.0f}, for {plan['cost']:,.2f} at the incumbent's cost",
    ]
    if (days := plan["days"]) is None:
        lines.append("days: unknown, because the log covers less than a day; give --users-a-day")
    else:
        lines.append(f"days at the last stage: {days:,.2f}")
    if plan["covariates"] is not None:
        lines.append("the plan ignores covariates: the better they predict the outcomes, the fewer users are needed")
    typer.echo("\n".join(lines))


def _span(days: float) -> str:
    if days >= 1:
        return f"{days:.2f} days"
    return f"{24 * days:.1f} hours" if 24 * days >= 1 else f"{1440 * days:.0f} minutes"
