"""The figures of `decision_log.py` as a Markdown table."""

from __future__ import annotations

from benchmarks._markdown import Figures, Show, measured_on, table

_ROWS: dict[str, Show] = {
    "filled, appends/s": lambda run: f"{run['appends_per_second']:,.0f}",
    "CPU of one append, filling": lambda run: f"{run['append_cpu_us']:.0f} µs",
    "bytes a record on disk": lambda run: f"{run['bytes_per_record']:,.0f}",
    "one append, 1 caller: p50, p99": lambda run: f"{run['p50_ms_1']:.2f} ms, {run['p99_ms_1']:.2f} ms",
    "one append, 32 callers: p50, p99": lambda run: f"{run['p50_ms_32']:.2f} ms, {run['p99_ms_32']:.2f} ms",
    "appends/s, 1 caller": lambda run: f"{run['per_second_1']:,.0f}",
    "appends/s, 32 callers": lambda run: f"{run['per_second_32']:,.0f}",
    "open again: time, CPU": lambda run: f"{run['reopen_seconds']:.2f} s, {run['reopen_cpu_seconds']:.2f} s",
    "in memory after that": lambda run: f"{run['memory_mib']:,.0f} MiB",
    "shipped, decisions/s": lambda run: f"{run['shipped_per_second']:,.0f}",
    "delete half": lambda run: f"{run['delete_seconds']:.2f} s" if "delete_seconds" in run else "",
    "worst append meanwhile": lambda run: f"{run['delete_worst_append_ms']:.0f} ms" if "delete_seconds" in run else "",
}


def decision_log_table(figures: Figures) -> str:
    """A column for each way of storing and size of log."""
    runs = figures["runs"]
    heads = ["", *(f"{run['store']}, {run['records']:,} records" for run in runs)]
    body = [[name, *(show(run) for run in runs)] for name, show in _ROWS.items()]
    return table(heads, body) + measured_on(figures, "decision_log.py")
