"""Write the tables of measurements, docs/tables/*.md, from benchmarks/results.

The results come from these commands, the last of which writes the tables:

    python benchmarks/loop.py [--data FILE --dataset NAME] --json benchmarks/results/loop/NAME.json    # each data set
    python benchmarks/train.py [--data FILE --dataset NAME] --json benchmarks/results/train/NAME.json  # each data set
    python benchmarks/aggregates.py [--data FILE --dataset NAME] --json benchmarks/results/aggregates/NAME.json
    python benchmarks/features.py --json benchmarks/results/features.json
    python benchmarks/serving.py --run runs/latest --json benchmarks/results/serving.json
    python benchmarks/decision_log.py --json benchmarks/results/decision_log.json
    python benchmarks/soak.py --run runs/latest --json benchmarks/results/soak.json
    python benchmarks/tables.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _environment import ROOT

from benchmarks._markdown import Found, Show, measured_on, table
from benchmarks.log_storage.table import decision_log_table
from benchmarks.request_path.tables import serving_tables, soak_table

RESULTS = ROOT / "benchmarks" / "results"
TABLES = ROOT / "docs" / "tables"


def main() -> None:
    for name, text in pages().items():
        (TABLES / f"{name}.md").write_text(text)


@dataclass(frozen=True)
class Page:
    """One page of tables."""

    title: str
    explained_in: str
    """Page of docs/ that says what is measured, and how."""
    tables: Callable[[Any], str]
    """Markdown of the figures of results/NAME.json, or of a list of those in results/NAME/, one for each data set."""


def pages() -> dict[str, str]:
    """Name and text of each page of tables."""
    return {name: _text(name, page) for name, page in PAGES.items()}


def _text(name: str, page: Page) -> str:
    one_file = RESULTS / f"{name}.json"
    if one_file.exists():
        source, figures = one_file, json.loads(one_file.read_text())
    else:
        source = RESULTS / name
        figures = [json.loads(path.read_text()) for path in sorted(source.glob("*.json"))]
    return (
        f"# {page.title}\n\n"
        f"Written by `benchmarks/tables.py` from `{source.relative_to(ROOT)}`; do not edit. "
        f"What is measured, and how: [{page.explained_in}](../{page.explained_in}).\n\n{page.tables(figures)}"
    )


def loop_table(results: Sequence[Found]) -> str:
    """The whole loop, a column for each data set."""
    results = sorted(results, key=lambda found: found["true_lift"] is None)
    rows: dict[str, Show] = {
        "touchpoints": lambda found: f"{found['rows']:,}",
        "whole loop": lambda found: f"{found['seconds']:.0f} s",
        "of it training": lambda found: f"{found['steps']['train-challenger']:.0f} s",
        "decisions over HTTP": lambda found: f"{found['decisions']:,}",
        "errors, fallbacks": lambda found: f"{found['errors']}, {found['fallbacks']}",
        "latency p50, p99": lambda found: f"{found['p50_ms']:.0f} ms, {found['p99_ms']:.0f} ms",
        "gate": lambda found: found["gate"],
        "lift in clicks per decision": lambda found: "{:+.4f} [{:+.4f}, {:+.4f}]".format(
            found["lift"], *found["lift_ci"]
        ),
        "true lift": lambda found: "unknown" if found["true_lift"] is None else f"{found['true_lift']:+.4f}",
        "drift alerts on live traffic": lambda found: str(found["clean_alerts"]),
    }
    body = [[name, *(cell(found) for found in results)] for name, cell in rows.items()]
    return table(["", *(found["dataset"] for found in results)], body) + measured_on(results[0], "loop.py")


def train_table(results: Sequence[Found]) -> str:
    """What training costs, a column for each data set."""
    epoch = "epoch_cpu_seconds"
    rows: dict[str, Show] = {
        "touchpoints": lambda found: f"{found['rows']:,}",
        "preparation, the notebook's way": lambda found: f"{found['preparation']['notebook_cpu_seconds']:.1f} s",
        "the same windows here": lambda found: f"{found['preparation']['ours_cpu_seconds']:.2f} s",
        "ratio (aim: 100)": lambda found: f"{found['preparation']['ratio']:.0f}",
        "epoch, published network, 512 wide, float32": lambda found: f"{found[epoch]['published network']:.1f} s",
        "epoch, the same network in bfloat16": lambda found: f"{found[epoch]['published network, bf16']:.1f} s",
        "its float32 / bfloat16 (aim: 2)": lambda found: "{:.2f}".format(
            found[epoch]["published network"] / found[epoch]["published network, bf16"]
        ),
        "epoch, ours, 512 wide, float32": lambda found: f"{found[epoch]['512, fp32']:.1f} s",
        "epoch, ours, 512 wide, bfloat16": lambda found: f"{found[epoch]['512, bf16']:.1f} s",
        "published / ours, both in float32": lambda found: "{:.2f}".format(
            found[epoch]["published network"] / found[epoch]["512, fp32"]
        ),
        "published in float32 / ours in bfloat16": lambda found: "{:.2f}".format(
            found[epoch]["published network"] / found[epoch]["512, bf16"]
        ),
        "epoch, ours, default (64 wide)": lambda found: f"{found[epoch]['64, default']:.2f} s",
        "default model to its best validation (aim: 60 s)": lambda found: (
            f"{found['default']['seconds_to_best']:.0f} s"
        ),
        "its parameters (aim: 300,000)": lambda found: f"{found['default']['parameters']:,}",
    }
    body = [[name, *(cell(found) for found in results)] for name, cell in rows.items()]
    return table(["", *(found["dataset"] for found in results)], body) + measured_on(results[0], "train.py")


def aggregates_table(results: Sequence[Found]) -> str:
    """What Feast's aggregates add to each method, a row for each data set and method."""
    metrics = {
        "action_accuracy": "channel accuracy",
        "action_auc": "channel AUC",
        "action_logloss": "channel log-loss",
        "reward_auc": "reward AUC",
        "reward_logloss": "reward log-loss",
    }
    rows = [
        [
            f"{found['dataset']}, {found['columns']} columns",
            {"mtorl": "MTORL", "lightgbm": "LightGBM"}[name],
            *("{:+.4f} [{:+.4f}, {:+.4f}]".format(*differences[metric]) for metric in metrics),
        ]
        for found in results
        for name, differences in found["differences"].items()
    ]
    return table(["with them less without", "", *metrics.values()], rows) + measured_on(results[0], "aggregates.py")


def feature_tables(figures: Found) -> str:
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
        found = figures.get(name)
        if isinstance(found, dict) and list(found) == ["error"]:
            text += f"{name}: error: {found['error']}\n\n"
        elif found:
            text += part(found) + "\n"
    quick = " --quick" if figures["quick"] else ""
    return text + measured_on(figures, f"features.py{quick}").lstrip("\n")


def _targets(figures: Found) -> str:
    """What was aimed at, and what came of it."""
    builder = figures.get("builder", [])
    built = {entry["rows"]: entry for entry in builder if not entry["raw"]} if isinstance(builder, list) else {}
    redis, asof = figures.get("online", {}).get("redis"), figures.get("retrieval", {}).get("asof", {}).get("arrow")

    def over(rows: int, one: str, other: str) -> float | None:
        entry = built.get(rows, {})
        divisor = _figure(entry.get(other), lambda found: found["seconds"])
        return divisor and _figure(entry.get(one), lambda found: found["seconds"] / divisor)

    aims: list[tuple[str, float, float | None, str]] = [
        ("per-user loop / builder, 1e6 rows, at least", 200, over(1_000_000, "per_user", "builder"), "{:,.0f}"),
        *(
            (f"builder / scan and sort, {name} rows, at most", 2, over(rows, "builder", "scan_sort"), "{:.2f}")
            for name, rows in (("1e6", 1_000_000), ("1e7", 10_000_000), ("5e7", 50_000_000))
        ),
        (
            "builder at 5e7 rows, peak memory in GiB, at most",
            3,
            _figure(built.get(50_000_000, {}).get("builder"), lambda found: found["peak_mib"] / 1024),
            "{:.2f}",
        ),
        ("retrieval of all views, seconds, at most", 5, _figure(asof, lambda found: found["seconds"]), "{:.2f}"),
        ("the same, peak memory in GiB, at most", 2, _figure(asof, lambda found: found["peak_mib"] / 1024), "{:.2f}"),
        ("the router's read on Redis, p50 in ms, at most", 0.4, _figure(redis, lambda f: f["read"]["p50"]), "{:.2f}"),
        ("append on Redis, p50 in ms, at most", 0.1, _figure(redis, lambda f: f["append"]["p50"]), "{:.2f}"),
    ]
    rows = []
    for what, aim, value, form in aims:
        met = value is not None and (value >= aim if what.endswith("at least") else value <= aim)
        rows.append([what, f"{aim:g}", "not measured" if value is None else form.format(value), "yes" if met else "no"])
    return "**Targets**\n\n" + table(["", "target", "measured", "met"], rows) + "\n"


def _builder(entries: Sequence[Found]) -> str:
    at_million = next((e for e in entries if e["rows"] == 1_000_000), entries[-2])
    base = _per_row(at_million)
    times: dict[str, Show] = {
        "rows": _rows,
        "per-user loop": lambda e: _cell(e.get("per_user"), _seconds),
        "groupby loop": lambda e: _cell(e.get("groupby"), _seconds),
        "scan and sort": lambda e: _cell(e.get("scan_sort"), _seconds),
        "builder": lambda e: _cell(e.get("builder"), _seconds),
        "builder, rows/s": lambda e: _cell(e.get("builder"), lambda found: f"{e['rows'] / found['seconds']:,.0f}"),
        "per-user loop / builder": lambda e: _ratio(e.get("per_user"), e.get("builder")),
        "groupby loop / builder": lambda e: _ratio(e.get("groupby"), e.get("builder")),
        "builder / scan and sort": lambda e: _ratio(e.get("builder"), e.get("scan_sort"), 2),
    }
    memory: dict[str, Show] = {
        "rows": _rows,
        "users": lambda e: _cell(e.get("log"), lambda found: f"{found['users']:,}"),
        "touchpoints of the busiest": lambda e: _cell(e.get("log"), lambda found: f"{found['longest']:,}"),
        "log": lambda e: _cell(e.get("log"), lambda found: f"{found['file_mib']:,.0f} MiB"),
        "builder, peak memory": lambda e: _cell(e.get("builder"), _peak),
        "scan and sort, peak memory": lambda e: _cell(e.get("scan_sort"), _peak),
        "builder's time a row, relative to 1e6 rows": lambda e: (
            f"{_per_row(e) / base:.2f}" if _per_row(e) and base else ""
        ),
    }
    return (
        f"**Sequence builder**, time. ≈: extrapolated from a sample of users.\n\n{_lines(times, entries)}\n"
        f"**Sequence builder**, memory and growth\n\n{_lines(memory, entries)}"
    )


def _rows(entry: Found) -> str:
    return f"{entry['rows']:,}{', raw' if entry['raw'] else ''}"


def _per_row(entry: Found) -> float:
    """The builder's time, seconds a row; 0 if there is none."""
    return float(entry.get("builder", {}).get("seconds", 0)) / float(entry["rows"])


def _lines(columns: Mapping[str, Show], entries: Sequence[Found]) -> str:
    return table(list(columns), [[show(entry) for show in columns.values()] for entry in entries])


def _peak(found: Found) -> str:
    return f"{found['peak_mib']:,.0f} MiB"


def _spark(found: Found) -> str:
    rows = [
        [
            name,
            _cell(found.get(engine), _seconds),
            _cell(found.get(engine), lambda f: f"{f['start_seconds']:.1f} s"),
            _cell(found.get(engine), _peak),
            _cell(found.get(engine), lambda f: f"`{f['manifest']['content_sha256'][:12]}`"),
        ]
        for name, engine in (("DuckDB", "duckdb"), ("Spark, local", "spark"))
    ]
    equal = "equal" if found.get("equal") else "NOT equal"
    head = (
        f"**Spark parity**, {_cell(found.get('log'), lambda f: format(f['rows'], ','))} rows: contents are {equal}.\n\n"
    )
    return head + table(["engine", "time", "start", "peak memory", "content sha256"], rows)


def _retrieval(found: Found) -> str:
    ours = "all views of `ad_decision_v1`, ASOF store, to "
    lines = [(ours + output, run.get("rows", 0), run) for output, run in found["asof"].items()]
    lines += [("`user_history` alone, Feast's DuckDB store, to arrow", run["rows"], run) for run in found["stock"]]
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
    made = f"; laying the repository of the log: {_cell(found.get('prepare'), _seconds)}"
    heads = ["what", "entity rows", "time", "entity rows/s", "peak memory"]
    return f"**Point-in-time retrieval**{made}\n\n{table(heads, rows)}"


def _online(found: Found) -> str:
    def times(name: str) -> Callable[[Found], str]:
        return lambda f: f"{f[name]['p50']:.3f}, {f[name]['p99']:.3f}" if name in f else ""

    stores = [found.get("sqlite"), found.get("redis")]
    lines = {
        "the router's read, 1 user": "read",
        "the router's read, 64 users": "read_many",
        "bare HMGET, decoded, 1 user": "direct",
        "append": "append",
        "append until a read shows it": "visible",
        "bare PING": "ping",
    }
    rows = [[name, *(_cell(store, times(key)) for store in stores)] for name, key in lines.items()]
    for what, of, to in (("read / bare HMGET", "read", "direct"), ("append / bare PING", "append", "ping")):
        ratio = _figure(stores[1], lambda f, of=of, to=to: f[of]["p50"] / f[to]["p50"])
        rows.append([f"{what}, p50", "", f"{ratio:.1f}" if ratio else ""])
    users = _figure(stores[1], lambda f: f["users"])
    return f"**Online**, {users or 0:,} users, p50 and p99 in ms\n\n" + table(["", "SQLite", "Redis"], rows)


def _loader(found: Found) -> str:
    shows: dict[str, Show] = {
        "windows/s from flat steps": lambda f: f"{f['windows'] / f['seconds']:,.0f}",
        "windows/s encoded": lambda f: f"{f['windows'] / f['encode_seconds']:,.0f}",
        "tokens a window": lambda f: f"{f['tokens'] / f['windows']:.1f}",
        "time to open the folder": lambda f: f"{f['load_seconds']:.2f} s",
        "peak memory": _peak,
    }
    count = _cell(found.get("log"), lambda f: f"{f['rows']:,}")
    cells = [_cell(found.get("loader"), show) for show in shows.values()]
    return f"**Training loader**, one thread, a folder of {count} steps\n\n" + table(list(shows), [cells])


def _seconds(found: Found) -> str:
    seconds = found["seconds"]
    return (
        f"{'≈ ' * bool(found.get('extrapolated'))}{seconds:,.{0 if seconds >= 100 else 1 if seconds >= 10 else 2}f} s"
    )


def _cell(found: Found | None, show: Callable[[Any], str]) -> str:
    if not found:
        return "not run"
    if "error" in found:
        return "error"
    return f"stopped {found['stopped']}" if "stopped" in found else show(found)


def _figure(found: Found | None, value: Callable[[Any], float]) -> float | None:
    return value(found) if found and "seconds" in found else None


def _ratio(found: Found | None, other: Found | None, digits: int = 0) -> str:
    if not (found and other and "seconds" in found and "seconds" in other):
        return ""
    return f"{found['seconds'] / other['seconds']:,.{digits}f}"


PAGES = {
    "loop": Page("The whole loop", "summary.md", loop_table),
    "train": Page("What training costs", "training.md", train_table),
    "aggregates": Page("What Feast's aggregates add to a model", "model.md", aggregates_table),
    "features": Page("The feature layer", "features.md", feature_tables),
    "serving": Page("The request path", "serving.md", serving_tables),
    "decision_log": Page("How the decision log is stored", "serving.md", decision_log_table),
    "soak": Page("Five minutes of everything at once", "serving.md", soak_table),
}

if __name__ == "__main__":
    main()
