"""Formats the tables of `features.py`."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks._markdown import Figures, Show, measured_on, table, table_of, targets

_ONLINE = {
    "the router's read, 1 user": "read",
    "the router's read, 64 users": "read_many",
    "append": "append",
    "append until a read shows it": "visible",
    "bare PING": "ping",
}


def feature_tables(figures: Figures) -> str:
    parts: dict[str, Callable[[Any], str]] = {"builder": _builder, "retrieval": _retrieval, "online": _online}
    text = "" if figures["quick"] or not parts.keys() <= figures.keys() else _targets(figures)
    text += "".join(part(figures[name]) + "\n" for name, part in parts.items() if name in figures)
    quick = " --quick" if figures["quick"] else ""
    return text + measured_on(figures, f"features.py{quick}").lstrip("\n")


def _targets(figures: Figures) -> str:
    built = {entry["rows"]: entry for entry in figures["builder"] if not entry["raw"]}
    largest, asof, redis = built[50_000_000], figures["retrieval"]["asof"], figures["online"]["redis"]
    sizes = {"1e6": 1_000_000, "1e7": 10_000_000, "5e7": 50_000_000}
    aims = [
        *((f"builder / scan and sort, {name} rows, at most", 2, _ratio(built[rows])) for name, rows in sizes.items()),
        ("builder at 5e7 rows, peak memory in GiB, at most", 3, largest["builder"]["peak_mib"] / 1024),
        ("retrieval of all views, seconds, at most", 5, asof["seconds"]),
        ("the same, peak memory in GiB, at most", 2, asof["peak_mib"] / 1024),
        ("the router's read on Redis, p50 in ms, at most", 0.4, redis["read"]["p50"]),
        ("append on Redis, p50 in ms, at most", 0.1, redis["append"]["p50"]),
    ]
    return targets([(*aim, ".2f") for aim in aims]) + "\n"


def _builder(entries: Sequence[Figures]) -> str:
    base = _per_row(next((entry for entry in entries if entry["rows"] == 1_000_000), entries[-2]))
    times: dict[str, Show] = {
        "rows": _rows,
        "scan and sort": lambda e: _seconds(e["scan_sort"]),
        "builder": lambda e: _seconds(e["builder"]),
        "builder, rows/s": lambda e: f"{1 / _per_row(e):,.0f}",
        "builder / scan and sort": lambda e: f"{_ratio(e):,.2f}",
    }
    memory: dict[str, Show] = {
        "rows": _rows,
        "users": lambda e: f"{e['log']['users']:,}",
        "touchpoints of the busiest": lambda e: f"{e['log']['longest']:,}",
        "log": lambda e: f"{e['log']['file_mib']:,.0f} MiB",
        "builder, peak memory": lambda e: _peak(e["builder"]),
        "scan and sort, peak memory": lambda e: _peak(e["scan_sort"]),
        "builder's time a row, relative to 1e6 rows": lambda e: f"{_per_row(e) / base:.2f}",
    }
    return (
        f"**Sequence builder**, time\n\n{table_of(times, entries)}\n"
        f"**Sequence builder**, memory and growth\n\n{table_of(memory, entries)}"
    )


def _rows(entry: Figures) -> str:
    return f"{entry['rows']:,}{', raw' if entry['raw'] else ''}"


def _per_row(entry: Figures) -> float:
    return float(entry["builder"]["seconds"] / entry["rows"])


def _ratio(entry: Figures) -> float:
    return float(entry["builder"]["seconds"] / entry["scan_sort"]["seconds"])


def _retrieval(result: Figures) -> str:
    columns: dict[str, Show] = {
        "what": lambda run: "all views of `ad_decision_v1`, ASOF store, to arrow",
        "entity rows": lambda run: f"{run['rows']:,}",
        "time": _seconds,
        "entity rows/s": lambda run: f"{run['rows'] / run['seconds']:,.0f}",
        "peak memory": _peak,
    }
    preparation = f"; creating the repository of the log: {_seconds(result['prepare'])}"
    return f"**Point-in-time retrieval**{preparation}\n\n{table_of(columns, [result['asof']])}"


def _online(result: Figures) -> str:
    stores = (result["sqlite"], result["redis"])
    rows = [
        [name, *(f"{store[key]['p50']:.3f}, {store[key]['p99']:.3f}" if key in store else "" for store in stores)]
        for name, key in _ONLINE.items()
    ]
    rows.append(["append / bare PING, p50", "", f"{stores[1]['append']['p50'] / stores[1]['ping']['p50']:.1f}"])
    head = f"**Online**, {stores[1]['users']:,} users, p50 and p99 in ms\n\n"
    return head + table(["", "SQLite", "Redis"], rows)


def _peak(result: Figures) -> str:
    return f"{result['peak_mib']:,.0f} MiB"


def _seconds(result: Figures) -> str:
    seconds = result["seconds"]
    return f"{seconds:,.{0 if seconds >= 100 else 1 if seconds >= 10 else 2}f} s"
