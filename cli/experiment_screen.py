"""An experiment in a terminal: what `mtorl experiment watch` draws from the same document as the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.tables import said_of_long_term, said_of_newest
from monitoring.plain_words import account, heavy, hours_or_minutes, moved, named, named_in, of_arms

if TYPE_CHECKING:
    from monitoring.experiments.document import Need, Step, View

_STYLES = {"good": "bold green", "alarm": "bold red", "open": "bold"}
_PLACES = {"past": ("●", "blue"), "skipped": ("◌", "dim"), "here": ("◉", "bold blue"), "ahead": ("○", "dim")}
_BAR = 20


def screen(views: Sequence[View]) -> RenderableType:
    """What fits on a screen: all of one experiment; of each of several what to do, its stage, and what comes next."""
    if len(views) == 1:
        return _whole(views[0])
    return Group(*(Padding(Group(_head(view), _steps(view["steps"]), _next(view)), (0, 0, 1, 0)) for view in views))


def _whole(view: View) -> RenderableType:
    """What to do, the stages, what it waits for, effect, checks, money."""
    verdict = view["verdict"] or {}
    parts: list[RenderableType] = [_head(view), _steps(view["steps"])]
    if view["next"]["needs"]:
        parts.append(_needs(view["next"]["needs"]))
    parts.append(_next(view))
    if verdict.get("users"):
        parts += [_effects(view, verdict), _checks(verdict, view["units"]), _arms(view, verdict)]
        if said := moved(verdict.get("moved_users", 0)):
            parts.append(Text(f"{verdict['users']:,} users in all: {said}"))
        parts += [Text(heavy(user["arm"], user["share"])) for user in verdict.get("heavy_users", ())]
    elif view["traffic"] is not None:
        parts.append(_decided(view))
    if (long_term := view["long_term"]) is not None:
        parts.append(Text(said_of_long_term(long_term), style=_STYLES[long_term["tone"]]))
    if view["spend"]:
        parts.append(_spend(view))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _head(view: View) -> Text:
    advice = view["advice"]
    off = "" if view["enabled"] else ", switched off"
    text = Text(f"{view['name']}: {view['phase']}{off}", style="dim")
    if view["since"] is not None:
        text.append(f" since {_time(view['since'])}")
    text.append(f"\n{advice['headline']}\n", style=_STYLES[advice["tone"]])
    text.append(advice["reason"], style="not dim")
    if advice["command"] is not None:
        text.append(f"\n{advice['command']}", style="cyan not dim")
    return text


def _steps(steps: list[Step]) -> Text:
    text = Text()
    for number, step in enumerate(steps):
        if number:
            text.append(" ─── ", style="dim")
        mark, style = _PLACES[step["place"]]
        text.append(f"{mark} {step['phase']}", style=style)
        if step["place"] == "skipped":
            text.append(" skipped", style=style)
    return text


def _needs(needs: list[Need]) -> Table:
    table = Table.grid(padding=(0, 2))
    for need in needs:
        limit = need["kind"] in ("fallback_ratio", "latency_seconds")
        share = 1.0 if need["needed"] <= 0 else min(max(need["found"] / need["needed"], 0.0), 1.0)
        colour = "green" if need["met"] else "red" if limit else "blue"
        bar = Text("━" * round(_BAR * share), style=colour)
        bar.append("─" * (_BAR - round(_BAR * share)), style="bright_black")
        mark = "✓" if need["met"] else "✗" if limit else "…"
        found, needed = _amount(need, need["found"]), _amount(need, need["needed"])
        words = f"{found}, {needed} allowed" if limit else f"{found} of {needed}"
        table.add_row(Text(mark, style=colour), Text(need["label"]), bar, Text(words))
    return table


def _amount(need: Need, value: float) -> str:
    if need["kind"] == "users":
        return f"{value:,.0f}"
    if need["kind"] == "fallback_ratio":
        return f"{value:.1%}"
    if need["kind"] == "latency_seconds":
        return f"{1000 * value:,.0f} ms"
    return hours_or_minutes(value, need["needed"])


def _next(view: View) -> Text:
    after = view["next"]
    text = Text(after["words"])
    when = []
    if after["not_before"] is not None:
        when.append(f"{'That is on' if view['phase'] == 'draft' else 'Not before'} {_time(after['not_before'])}")
    if after["expected"] is not None:
        when.append(f"{'at' if when else 'At'} the rate so far, about {_time(after['expected'])}")
    if when:
        text.append(f" {'; '.join(when)}.")
    if (newest := view["newest"]) is not None:
        text.append(f"\n{said_of_newest(newest)}", style="" if newest["silence"] is None else "red")
    if view["in_force"] is False:  # None: of an object, whose routers nobody asks from here
        text.append("\nThe file or the history has changed since: routers don't have it yet.", style="red")
    return text


def _effects(view: View, verdict: dict[str, Any]) -> Table:
    table = Table(title=f"effect, {named(view['plan']['metrics']['primary'], view['unit'])}", title_justify="left")
    for name in ("challenger", "verdict", "effect", "relative", "always-valid interval"):
        table.add_column(name)
    for name, found in verdict["challengers"].items():
        relative = found.get("relative_lift")
        cells = (name, found["verdict"], _signed(found["lift"]), _signed(relative, "+.1%"), _interval(found["lift_ci"]))
        table.add_row(*map(Text, cells))
    return table


def _checks(verdict: dict[str, Any], units: dict[str, str]) -> RenderableType:
    p = verdict.get("srm_p")
    void = verdict["verdict"] == "srm"
    said = "unknown" if p is None else f"{'no' if void else 'ok'} (p = {p:.2g})"
    lines = Text("users are split as configured: ")
    lines.append(said, style="bold red" if void else "green")
    several = len(verdict["challengers"]) > 1
    for name, found in verdict["challengers"].items():
        for check in found["guardrails"]:
            style = {"breached": "bold red", "held": "green", "open": ""}[check["state"]]
            whose = f"{name}, " if several else ""
            lines.append(f"\nguardrail {whose}{named_in(check['name'], units)}: ")
            lines.append(check["state"], style=style)
            bounds = _interval([check["lower"], check["upper"]])
            lines.append(f", harm {_signed(check['harm'])} {bounds}, {check['margin']:g} allowed")
    return lines


def _arms(view: View, verdict: dict[str, Any]) -> Table:
    table, metrics = Table(), of_arms(verdict)[:2]
    for name in ("arm", "users now", "users", "decisions", "exposures", *(label for _, label in metrics)):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in view["plan"]["arms"]:
        found = verdict["arms"].get(arm["name"], {})
        counts = (f"{found.get(key, 0):,}" for key in ("users", "decisions", "exposures"))
        means = (found.get("metrics", {}).get(metric) for metric, _ in metrics)
        shown = ("-" if mean is None else f"{mean:.4f}" for mean in means)
        table.add_row(Text(arm["name"]), f"{arm['share']:.0%}", *counts, *shown)
    return table


def _decided(view: View) -> Table:
    traffic = view["traffic"]
    assert traffic is not None
    table = Table(title="in the shadow" if traffic["shadow"] else None, title_justify="left")
    for name in ("arm", "decisions", "exposures", "default actions"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, arm in traffic["arms"].items():
        table.add_row(Text(name), f"{arm['decisions']:,}", f"{arm['exposures']:,}", f"{arm['fallbacks']:,}")
    return table


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


def _signed(value: float | None, form: str = "+.4f") -> str:
    return "-" if value is None else format(value, form)


def _interval(ends: Any) -> str:
    if not ends or None in ends:
        return "too few users"
    return f"[{_signed(ends[0])}, {_signed(ends[1])}]"


def _time(iso: str) -> str:
    return f"{iso[:10]} {iso[11:16]} UTC"
