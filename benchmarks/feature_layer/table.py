"""The tables of the feature layer: sequence builder, parity of engines, retrieval, online store, loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks._markdown import Figures, Show, measured_on, table


def feature_tables(figures: Figures) -> str:
    """The feature layer, a table for each measure that was run."""
    parts: dict[str, Show] = {
        "builder": _builder,
        "spark": _spark,
        "retrieval": _retrieval,
        "online": _online,
        "loader": _loader,
    }
    text = "" if figures["quick"] else _targets(figures)
    for name, part in parts.items():
        result = figures.get(name)
        if isinstance(result, dict) and list(result) == ["error"]:
            text += f"{name}: error: {result['error']}\n\n"
        elif result:
            text += part(result) + "\n"
    quick = " --quick" if figures["quick"] else ""
    return text + measured_on(figures, f"features.py{quick}").lstrip("\n")


def _targets(figures: Figures) -> str:
    """What was aimed at, and what came of it."""
    builder = figures.get("builder", [])
    built = {entry["rows"]: entry for entry in builder if not entry["raw"]} if isinstance(builder, list) else {}
    redis, asof = figures.get("online", {}).get("redis"), figures.get("retrieval", {}).get("asof", {}).get("arrow")

    def over(rows: int, one: str, other: str) -> float | None:
        entry = built.get(rows, {})
        divisor = _figure(entry.get(other), lambda result: result["seconds"])
        return divisor and _figure(entry.get(one), lambda result: result["seconds"] / divisor)

    aims: list[tuple[str, float, float | None, str]] = [
        *(
            (f"builder / scan and sort, {name} rows, at most", 2, over(rows, "builder", "scan_sort"), "{:.2f}")
            for name, rows in (("1e6", 1_000_000), ("1e7", 10_000_000), ("5e7", 50_000_000))
        ),
        (
            "builder at 5e7 rows, peak memory in GiB, at most",
            3,
            _figure(built.get(50_000_000, {}).get("builder"), lambda result: result["peak_mib"] / 1024),
            "{:.2f}",
        ),
        ("retrieval of all views, seconds, at most", 5, _figure(asof, lambda result: result["seconds"]), "{:.2f}"),
        ("the same, peak memory in GiB, at most", 2, _figure(asof, lambda result: result["peak_mib"] / 1024), "{:.2f}"),
        ("the router's read on Redis, p50 in ms, at most", 0.4, _figure(redis, lambda f: f["read"]["p50"]), "{:.2f}"),
        ("append on Redis, p50 in ms, at most", 0.1, _figure(redis, lambda f: f["append"]["p50"]), "{:.2f}"),
    ]
    rows = []
    for what, aim, value, form in aims:
        met = value is not None and (value >= aim if what.endswith("at least") else value <= aim)
        rows.append([what, f"{aim:g}", "not measured" if value is None else form.format(value), "yes" if met else "no"])
    return "**Targets**\n\n" + table(["", "target", "measured", "met"], rows) + "\n"


def _builder(entries: Sequence[Figures]) -> str:
    at_million = next((e for e in entries if e["rows"] == 1_000_000), entries[-2])
    base = _per_row(at_million)
    times: dict[str, Show] = {
        "rows": _rows,
        "scan and sort": lambda e: _cell(e.get("scan_sort"), _seconds),
        "builder": lambda e: _cell(e.get("builder"), _seconds),
        "builder, rows/s": lambda e: _cell(e.get("builder"), lambda result: f"{e['rows'] / result['seconds']:,.0f}"),
        "builder / scan and sort": lambda e: _ratio(e.get("builder"), e.get("scan_sort")),
    }
    memory: dict[str, Show] = {
        "rows": _rows,
        "users": lambda e: _cell(e.get("log"), lambda result: f"{result['users']:,}"),
        "touchpoints of the busiest": lambda e: _cell(e.get("log"), lambda result: f"{result['longest']:,}"),
        "log": lambda e: _cell(e.get("log"), lambda result: f"{result['file_mib']:,.0f} MiB"),
        "builder, peak memory": lambda e: _cell(e.get("builder"), _peak),
        "scan and sort, peak memory": lambda e: _cell(e.get("scan_sort"), _peak),
        "builder's time a row, relative to 1e6 rows": lambda e: (
            f"{_per_row(e) / base:.2f}" if _per_row(e) and base else ""
        ),
    }
    return (
        f"**Sequence builder**, time\n\n{_lines(times, entries)}\n"
        f"**Sequence builder**, memory and growth\n\n{_lines(memory, entries)}"
    )


def _rows(entry: Figures) -> str:
    return f"{entry['rows']:,}{', raw' if entry['raw'] else ''}"


def _per_row(entry: Figures) -> float:
    """The builder's time, seconds a row; 0 if there is none."""
    return float(entry.get("builder", {}).get("seconds", 0)) / float(entry["rows"])


def _lines(columns: Mapping[str, Show], entries: Sequence[Figures]) -> str:
    return table(list(columns), [[show(entry) for show in columns.values()] for entry in entries])


def _peak(result: Figures) -> str:
    return f"{result['peak_mib']:,.0f} MiB"


def _spark(result: Figures) -> str:
    rows = [
        [
            name,
            _cell(result.get(engine), _seconds),
            _cell(result.get(engine), lambda f: f"{f['start_seconds']:.1f} s"),
            _cell(result.get(engine), _peak),
            _cell(result.get(engine), lambda f: f"`{f['manifest']['content_sha256'][:12]}`"),
        ]
        for name, engine in (("DuckDB", "duckdb"), ("Spark, local", "spark"))
    ]
    equal = "equal" if result.get("equal") else "NOT equal"
    rows_built = _cell(result.get("log"), lambda log: f"{log['rows']:,}")
    head = f"**Spark parity**, {rows_built} rows: contents are {equal}.\n\n"
    return head + table(["engine", "time", "start", "peak memory", "content sha256"], rows)


def _retrieval(result: Figures) -> str:
    ours = "all views of `ad_decision_v1`, ASOF store, to "
    lines = [(ours + output, run.get("rows", 0), run) for output, run in result["asof"].items()]
    rows = [
        [
            name,
            f"{count:,}",
            _cell(run, _seconds),
            f"{count / run['seconds']:,.0f}" if "seconds" in run else "",
            _peak(run) if "peak_mib" in run else "",
        ]
        for name, count, run in lines
    ]
    preparation = f"; creating the repository of the log: {_cell(result.get('prepare'), _seconds)}"
    heads = ["what", "entity rows", "time", "entity rows/s", "peak memory"]
    return f"**Point-in-time retrieval**{preparation}\n\n{table(heads, rows)}"


def _online(result: Figures) -> str:
    def times(name: str) -> Callable[[Figures], str]:
        return lambda f: f"{f[name]['p50']:.3f}, {f[name]['p99']:.3f}" if name in f else ""

    stores = [result.get("sqlite"), result.get("redis")]
    lines = {
        "the router's read, 1 user": "read",
        "the router's read, 64 users": "read_many",
        "append": "append",
        "append until a read shows it": "visible",
        "bare PING": "ping",
    }
    rows = [[name, *(_cell(store, times(key)) for store in stores)] for name, key in lines.items()]
    ratio = _figure(stores[1], lambda f: f["append"]["p50"] / f["ping"]["p50"])
    rows.append(["append / bare PING, p50", "", f"{ratio:.1f}" if ratio else ""])
    users = _figure(stores[1], lambda f: f["users"])
    return f"**Online**, {users or 0:,} users, p50 and p99 in ms\n\n" + table(["", "SQLite", "Redis"], rows)


def _loader(result: Figures) -> str:
    shows: dict[str, Show] = {
        "windows/s from flat steps": lambda f: f"{f['windows'] / f['seconds']:,.0f}",
        "windows/s encoded": lambda f: f"{f['windows'] / f['encode_seconds']:,.0f}",
        "tokens a window": lambda f: f"{f['tokens'] / f['windows']:.1f}",
        "time to open the folder": lambda f: f"{f['load_seconds']:.2f} s",
        "peak memory": _peak,
    }
    count = _cell(result.get("log"), lambda f: f"{f['rows']:,}")
    cells = [_cell(result.get("loader"), show) for show in shows.values()]
    return f"**Training loader**, one thread, a folder of {count} steps\n\n" + table(list(shows), [cells])


def _seconds(result: Figures) -> str:
    seconds = result["seconds"]
    return f"{seconds:,.{0 if seconds >= 100 else 1 if seconds >= 10 else 2}f} s"


def _cell(result: Figures | None, show: Callable[[Any], str]) -> str:
    if not result:
        return "not run"
    if "error" in result:
        return "error"
    return f"stopped {result['stopped']}" if "stopped" in result else show(result)


def _figure(result: Figures | None, value: Callable[[Any], float]) -> float | None:
    return value(result) if result and "seconds" in result else None


def _ratio(result: Figures | None, other: Figures | None) -> str:
    if not (result and other and "seconds" in result and "seconds" in other):
        return ""
    return f"{result['seconds'] / other['seconds']:,.2f}"
