"""Formats the tables of `benchmarks/monitoring.py`."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scipy.stats import binomtest

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.monitoring_runs.shifts import SCENARIOS

MOST_CPU, MOST_MIB, MOST_PAGES, MOST_MEDIAN = 10, 1_024, 0.05, 2


def monitoring_tables(figures: Figures) -> str:
    return _false_alarms(figures) + _power(figures) + _cost(figures["cost"]) + measured_on(figures, "monitoring.py")


def _sum(markets: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(market[name] for market in markets) for name in markets[0]}


def _share(count: int, of: int) -> str:
    interval = binomtest(count, of).proportion_ci()
    return f"{count / of:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _false_alarms(figures: Figures) -> str:
    rows = []
    for name, title in (
        ("clean", f"nothing changes; {figures['columns']} columns, {figures['users_of_clean']:,} users a day"),
        ("season", "weekends: a quarter fewer clicks, another mix of devices; 8 columns, 2,000 users a day"),
    ):
        found = _sum(figures[name])
        shares = [_share(found[kind], found["windows"]) for kind in ("pages", "measures", "columns")]
        rows.append([title, f"{found['windows']:,}", *shares])
    heads = ["", "days judged", "a page", "a ticket: measures", "a ticket: columns"]
    season = _sum(figures["season"])
    kept = season["pages"] <= MOST_PAGES * season["windows"]
    return (
        f"**False alarms**: share of days on which an alarm stands (95 % intervals, as if days were independent)\n\n"
        f"{table(heads, rows)}\nAim: at most {MOST_PAGES:.0%} of days with a page where only seasons change: "
        f"{'kept' if kept else '**missed**'}.\n"
    )


def _power(figures: Figures) -> str:
    looked, rows, missed = figures["looked"], [], []
    for users, markets in figures["power"].items():
        for name, scenario in SCENARIOS.items():
            found = [market[name] for market in markets]
            head = [scenario.title, f"{int(users):,}", str(len(found))]
            if scenario.by_hours:
                hours = [25 if one["hours"] is None else one["hours"] for one in found]
                within = sum(hour <= 24 for hour in hours) / len(hours)
                rows.append([*head, f"{median(hours):g} hours", f"{within:.0%} within a day", "", ""])
                continue
            right, of_any = ([one[which] for one in found] for which in ("right", "any"))
            if name == "cost" and _median(right, looked) > MOST_MEDIAN:
                missed.append(f"{int(users):,} users")
            days = [_days(right, looked, within) for within in (None, 2, looked)]
            rows.append([*head, *days, _days(of_any, looked, None)])
    heads = ["", "users a day", "markets", "median days until the right alarm", "within 2", f"within {looked}"]
    heads += ["until any alarm"]
    bar = f"**missed** with {', '.join(missed)}" if missed else "kept"
    return (
        f"\n**Delay** after a change, two healthy weeks before it\n\n{table(heads, rows)}\n"
        f"Aim: cost x 1.25 within {MOST_MEDIAN} days in the median: {bar}.\n"
    )


def _median(days: Sequence[int | None], looked: int) -> float:
    return float(median(looked + 1 if day is None else day for day in days))


def _days(days: Sequence[int | None], looked: int, within: int | None) -> str:
    if within is not None:
        return f"{sum(day is not None and day <= within for day in days) / len(days):.0%}"
    middle = _median(days, looked)
    return f"{middle:g}" if middle <= looked else f"> {looked}"


def _cost(cost: Mapping[str, Any]) -> str:
    words = {"no_page": "a day on which no column has moved", "page": "a day with Evidently's page of the columns"}

    def judged(value: float, most: float, form: str) -> str:
        return f"{value:{form}}{'' if value <= most else ' (**missed**)'}"

    rows = [
        [words[name], judged(run["cpu_seconds"], MOST_CPU, ".1f"), judged(run["peak_mib"], MOST_MIB, ",.0f")]
        for name, run in cost["runs"].items()
    ]
    heads = ["", f"CPU s (aim: {MOST_CPU})", f"peak memory, MiB (aim: {MOST_MIB:,})"]
    what = f"{cost['decisions']:,} decisions with {cost['columns']} columns"
    return f"\n**One check** of a day of {what}, and the look at the last hours\n\n{table(heads, rows)}"
