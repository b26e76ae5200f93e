"""Formats tables of measurements as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Show = Callable[[Any], str]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n".replace("  ", " ") for cells in (heads, *rows)]
    return "".join([lines[0], f"|{'---|' * len(heads)}\n", *lines[1:]])


def table_of(columns: Mapping[str, Show], rows: Sequence[Figures]) -> str:
    return table(list(columns), [[show(row) for show in columns.values()] for row in rows])


def compared(rows: Mapping[str, Show], results: Sequence[Figures]) -> list[list[str]]:
    """Return the cells of a table with a row for each figure and a column for each result."""
    return [[name, *(show(result) for result in results)] for name, show in rows.items()]


def targets(aims: Sequence[tuple[str, float, float, str]]) -> str:
    """Format a table that compares measured values with their targets.

    Each entry of `aims` is name, target, value and format. The target is a lower limit if the name contains "at least".
    """
    rows = []
    for what, aim, value, form in aims:
        shown = f"{value:{form}}"
        met = float(shown) >= aim if "at least" in what else float(shown) <= aim
        rows.append([what, f"{aim:g}", shown, "yes" if met else "no"])
    return "**Targets**\n\n" + table(["", "target", "measured", "met"], rows)


def measured_on(figures: Figures, script: str) -> str:
    where = dict(figures["environment"])
    line = f"`benchmarks/{script}` on {where.pop('cpu')}, {where.pop('cores')} cores, Python {where.pop('python')}"
    where.pop("system")
    names = ("duckdb", "ibis-framework", "pyspark", "feast", "redis", "pandas", "pyarrow")
    versions = ", ".join(f"{name} {where[name]}" for name in names if name in where and script != "loop.py")
    return f"\n{line}{', ' + versions if versions else ''}.\n"
