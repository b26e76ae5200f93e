"""From figures to what the page's template reads: charts, words, and what one should know of this log."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.describe import charts
from mtorl.log.propensity import FLOOR
from mtorl.pages.page import write_page
from mtorl.pages.words import ABSENT, count, counted, number, share

if TYPE_CHECKING:
    from collections.abc import Iterable

    from features.describe.figures import Description, Rate

_ESTIMATES = {
    "channel-frequency": "how often each channel was chosen, whatever came before",
    "markov": "how often each channel followed the channel before it",
}


def render(description: Description, path: Path | str) -> Path:
    """Write the page: one file that loads nothing from outside. It appears complete or not at all."""
    template = Path(__file__).parent / "page.html.j2"
    return write_page(Path(path), template, content(description), {"rate": _rate})


def content(found: Description) -> dict[str, Any]:
    """Everything that the template reads."""
    labels = {name: found.spec["outcome_labels"].get(name, name) for name in ("click", "conversion", "revenue", "cost")}
    known = found.propensity_rows > 0
    cost = found.column("cost")
    return {
        "found": found,
        "spec": found.spec,
        "labels": labels,
        "span": _span(found),
        "notes": list(_notes(found, labels)),
        "columns": [asdict(column) | {"share": column.missing / found.rows} for column in found.columns],
        "touchpoints": charts.touchpoints(found),
        "channel_shares": charts.channel_shares(found.channels),
        "shares_over_time": charts.shares_over_time(found),
        "lengths": charts.lengths(found),
        "pauses": charts.pauses(found) if found.pauses else None,
        "rates": [_rates(found, name, labels[name]) for name in ("click", "conversion") if getattr(found, name).hits],
        "places_left_out": max(len(found.places) - charts.PLACES, 0),
        "estimate": _ESTIMATES.get(found.spec["propensity"], ""),
        "floor": FLOOR,
        "propensities": charts.propensities(found) if known else None,
        "costs": charts.costs(found.channels, found.spec["currency"]) if cost.low != cost.high else None,
        "cost": cost,
        "free": sum(channel.free * channel.rows for channel in found.channels if channel.rows) / found.rows,
    }


def _rates(found: Description, name: str, label: str) -> dict[str, Any]:
    overall, what = getattr(found, name), f"{name.capitalize()} rate"
    channels = [(channel.channel, getattr(channel, name)) for channel in found.channels]
    places = [(place.place, getattr(place, name)) for place in found.places]
    return {
        "name": name,
        "label": label,
        "overall": overall,
        "by_channel": charts.rates_by_channel(f"{name}-by-channel", channels, overall.share, what),
        "by_place": charts.rates_by_place(f"{name}-by-place", places, overall.share, what),
    }


def _notes(found: Description, labels: dict[str, str]) -> Iterable[tuple[str, str]]:
    """(tone, sentence): what the next steps will do with this log, where that may surprise."""
    spec, most = found.spec, count(found.spec["max_touchpoints"])
    if found.quarantined:
        rows = counted(found.quarantined, "faulty row is", "faulty rows are")
        yield "alarm", f"{rows} left out: {'; '.join(found.faults)}."
    if found.capped_users:
        users = counted(found.capped_users, "user has", "users have")
        longest = count(found.most_touchpoints)
        yield "alarm", f"{users} more than {most} touchpoints, up to {longest}: bots. Only the first {most} are used."
    if lone := found.one_touchpoint_users:
        users, part = counted(lone, "user has", "users have"), lone / found.users
        yield "plain", f"{users} one touchpoint ({share(part)} of the users): nothing to learn a sequence from."
    if found.late_rows:
        rows, part = counted(found.late_rows, "touchpoint", "touchpoints"), found.late_rows / found.rows
        yield "plain", f"{rows} ({share(part)}) arrived later than they happened; no feature knows them before that."
    if unused := [channel.channel for channel in found.channels if not channel.rows]:
        yield "alarm", f"Channels without a touchpoint: {', '.join(unused)}."
    for name in ("click", "conversion"):
        if not getattr(found, name).hits:
            tone = "alarm" if spec["reward"]["gain"] == name else "plain"
            yield tone, f"No touchpoint has a {name} ({labels[name]})."
    if not found.propensity_rows and spec["propensity"] in _ESTIMATES:
        yield "plain", "The log has no propensities: off-policy values will rest on estimated ones."
    elif not found.propensity_rows:
        yield "alarm", "The log has no propensities, though its description says so: no off-policy value without them."
    if found.propensity_rare:
        rows = counted(found.propensity_rare, "touchpoint has", "touchpoints have")
        weight, part = f"{1 / FLOOR:.0f}", found.propensity_rare / found.rows
        yield (
            "alarm",
            f"{rows} a propensity below {FLOOR} ({share(part)}): a weight above {weight} in off-policy values.",
        )
    cost = found.column("cost")
    if cost.low is not None and cost.low == cost.high:
        yield "plain", f"Every touchpoint costs {number(cost.low)}: there is no dear and cheap to choose between."
    if lacking := [column for column in found.columns if column.missing and column.name != "propensity"]:
        columns, worst = counted(len(lacking), "column has", "columns have"), max(lacking, key=lambda c: c.missing)
        yield "plain", f"{columns} missing values, most of all {worst.name} ({share(worst.missing / found.rows)})."


def _span(found: Description) -> str:
    first, last = (datetime.fromisoformat(moment) for moment in (found.first, found.last))
    seconds = (last - first).total_seconds()
    for size, one, many in ((86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes")):
        if seconds >= size:
            return counted(round(seconds / size), one, many)
    return counted(round(seconds), "second", "seconds")


def _rate(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{share(rate.share)} [{share(rate.low)}, {share(rate.high)}]" if rate.rows else ABSENT
