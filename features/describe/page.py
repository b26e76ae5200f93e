"""From figures to what the page's template reads: charts, words, and what one should know of this log."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.describe import charts
from mtorl.log.propensity import FLOOR
from mtorl.runtime.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from features.describe.figures import Description

ABSENT = "—"
_ESTIMATES = {
    "channel-frequency": "how often each channel was chosen, whatever came before",
    "markov": "how often each channel followed the channel before it",
}


def render(description: Description, path: Path | str) -> Path:
    """Write the page: one file that loads nothing from outside. It appears complete or not at all."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    page = environment.get_template("page.html.j2").render(content(description))
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def content(found: Description) -> dict[str, Any]:
    """Everything that the template reads."""
    from plotly.offline import get_plotlyjs

    labels = {name: found.spec["outcome_labels"].get(name, name) for name in ("click", "conversion", "revenue", "cost")}
    known = found.propensity_rows > 0
    cost = found.column("cost")
    return {
        "found": found,
        "spec": found.spec,
        "labels": labels,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "plotlyjs": get_plotlyjs(),
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
        rows = plural(found.quarantined, "faulty row is", "faulty rows are")
        yield "alarm", f"{rows} left out: {'; '.join(found.faults)}."
    if found.capped_users:
        users = plural(found.capped_users, "user has", "users have")
        longest = count(found.most_touchpoints)
        yield "alarm", f"{users} more than {most} touchpoints, up to {longest}: bots. Only the first {most} are used."
    if found.one_touch_users:
        users, part = plural(found.one_touch_users, "user has", "users have"), found.one_touch_users / found.users
        yield "plain", f"{users} one touchpoint ({share(part)} of the users): nothing to learn a sequence from."
    if found.late_rows:
        rows, part = plural(found.late_rows, "touchpoint", "touchpoints"), found.late_rows / found.rows
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
        rows = plural(found.propensity_rare, "touchpoint has", "touchpoints have")
        weight, part = f"{1 / FLOOR:.0f}", found.propensity_rare / found.rows
        yield (
            "alarm",
            f"{rows} a propensity below {FLOOR} ({share(part)}): a weight above {weight} in off-policy values.",
        )
    cost = found.column("cost")
    if cost.low is not None and cost.low == cost.high:
        yield "plain", f"Every touchpoint costs {number(cost.low)}: there is no dear and cheap to choose between."
    if lacking := [column for column in found.columns if column.missing and column.name != "propensity"]:
        columns, worst = plural(len(lacking), "column has", "columns have"), max(lacking, key=lambda c: c.missing)
        yield "plain", f"{columns} missing values, most of all {worst.name} ({share(worst.missing / found.rows)})."


def _span(found: Description) -> str:
    first, last = (datetime.fromisoformat(moment) for moment in (found.first, found.last))
    seconds = (last - first).total_seconds()
    for size, one, many in ((86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes")):
        if seconds >= size:
            return plural(round(seconds / size), one, many)
    return plural(round(seconds), "second", "seconds")


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return ABSENT if value is None or math.isnan(value) else f"{value:,.0f}"


def number(value: float | None) -> str:
    """A number to four digits, or to the unit where it has more."""
    if value is None or math.isnan(value):
        return ABSENT
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def share(value: float | None) -> str:
    """A share as percent; a small one is not shown as zero."""
    if value is None or math.isnan(value):
        return ABSENT
    return "< 0.01%" if 0 < value < 1e-4 else f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}"


def interval(rate: Any) -> str:
    """The interval of a rate."""
    return f"{share(rate.share)} [{share(rate.low)}, {share(rate.high)}]" if rate.rows else ABSENT


def plural(value: int, one: str, many: str) -> str:
    """A count with its noun."""
    return f"{value:,} {noun(value, one, many)}"


def day(moment: str) -> str:
    """The day of an ISO time."""
    return moment[:10]


def noun(value: float, one: str, many: str) -> str:
    """The noun that goes with a count."""
    return one if value == 1 else many


FILTERS = {"noun": noun, "count": count, "number": number, "share": share, "interval": interval, "day": day}
