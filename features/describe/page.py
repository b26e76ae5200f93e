"""Converts the statistics of a log into the charts and sentences of the report, and writes the HTML page."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.describe import charts
from mtorl.log.dataset import EVENTS, OUTCOMES
from mtorl.log.gain import Gain
from mtorl.log.propensity import FLOOR
from mtorl.pages.page import write_page
from mtorl.pages.words import ABSENT, count, counted, number, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from features.describe.figures import Description, Rate

_ESTIMATES = {
    "channel-frequency": "how often each channel was chosen, after any channel",
    "markov": "how often each channel followed the channel before it",
}


def render(description: Description, path: Path | str) -> Path:
    """Write the report as one HTML file, which needs no other files and no network."""
    template = Path(__file__).parent / "page.html.j2"
    return write_page(Path(path), template, content(description), {"rate": _rate})


def content(figures: Description) -> dict[str, Any]:
    """Return all values that the template `page.html.j2` reads."""
    labels = {name: figures.spec["outcome_labels"].get(name, name) for name in OUTCOMES}
    cost = figures.column("cost")
    return {
        "figures": figures,
        "spec": figures.spec,
        "labels": labels,
        "seconds": (datetime.fromisoformat(figures.last) - datetime.fromisoformat(figures.first)).total_seconds(),
        "notes": list(_notes(figures, labels)),
        "columns": [asdict(column) | {"share": column.missing / figures.rows} for column in figures.columns],
        "touchpoints": charts.touchpoints(figures),
        "lengths": charts.lengths(figures),
        "rates": [_rates(figures, name, labels[name]) for name in EVENTS if figures.rate(name).hits],
        "places_left_out": max(len(figures.places) - charts.PLACES, 0),
        "estimate": _ESTIMATES.get(figures.spec["propensity"], ""),
        "floor": FLOOR,
        "propensities": charts.propensities(figures) if figures.propensity_rows else None,
        "cost": cost,
        "free": sum(channel.free * channel.rows for channel in figures.channels if channel.rows) / figures.rows,
    }


def _rates(figures: Description, name: str, label: str) -> dict[str, Any]:
    overall, what = figures.rate(name), f"{name.capitalize()} rate"
    channels = [(channel.channel, getattr(channel, name)) for channel in figures.channels]
    places = [(place.place, getattr(place, name)) for place in figures.places]
    return {
        "name": name,
        "label": label,
        "overall": overall,
        "by_channel": charts.rates_by_channel(f"{name}-by-channel", channels, overall.share, what),
        "by_place": charts.rates_by_place(f"{name}-by-place", places, overall.share, what),
    }


def _notes(figures: Description, labels: dict[str, str]) -> Iterable[tuple[str, str]]:
    """Yield remarks that the user should read before training, each as a tone, "alarm" or "plain", and a sentence."""
    spec, most = figures.spec, count(figures.spec["max_touchpoints"])
    if figures.quarantined:
        rows = counted(figures.quarantined, "faulty row is", "faulty rows are")
        yield "alarm", f"{rows} left out: {'; '.join(figures.faults)}."
    if figures.capped_users:
        users = counted(figures.capped_users, "user has", "users have")
        longest = count(figures.most_touchpoints)
        yield "alarm", f"{users} more than {most} touchpoints, up to {longest} (bots). Only the first {most} are used."
    if lone := figures.one_touchpoint_users:
        users, part = counted(lone, "user has", "users have"), lone / figures.users
        yield "plain", f"{users} one touchpoint ({share(part)} of the users), too few to learn a sequence from."
    if figures.late_rows:
        rows, part = counted(figures.late_rows, "touchpoint", "touchpoints"), figures.late_rows / figures.rows
        yield "plain", f"{rows} ({share(part)}) arrived after their time; features contain them from their arrival."
    if unused := [channel.channel for channel in figures.channels if not channel.rows]:
        yield "alarm", f"Channels without a touchpoint: {', '.join(unused)}."
    for name in EVENTS:
        if not figures.rate(name).hits:
            tone = "alarm" if name in Gain.of_spec(spec["reward"]["gain"]).names else "plain"
            yield tone, f"No touchpoint has a {name} ({labels[name]})."
    if not figures.propensity_rows and spec["propensity"] in _ESTIMATES:
        yield "plain", "The log has no propensities: off-policy values will use estimated ones."
    elif not figures.propensity_rows:
        yield "alarm", "The log lacks the propensities of its description, so off-policy values can't be estimated."
    if figures.propensity_rare:
        rows = counted(figures.propensity_rare, "touchpoint has", "touchpoints have")
        part, weight = figures.propensity_rare / figures.rows, f"a weight above {1 / FLOOR:.0f}"
        yield "alarm", f"{rows} a propensity below {FLOOR} ({share(part)}): {weight} in off-policy values."
    cost = figures.column("cost")
    if cost.low is not None and cost.low == cost.high:
        yield "plain", f"Every touchpoint costs {number(cost.low)}: no channel is cheaper than another."
    if lacking := [column for column in figures.columns if column.missing and column.name != "propensity"]:
        columns, worst = counted(len(lacking), "column has", "columns have"), max(lacking, key=lambda c: c.missing)
        yield "plain", f"{columns} missing values, most of them {worst.name} ({share(worst.missing / figures.rows)})."


def _rate(rate: Rate) -> str:
    return f"{share(rate.share)} [{share(rate.low)}, {share(rate.high)}]" if rate.rows else ABSENT
