"""Formats tables of measurements as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Show = Callable[[Any], str]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table from its column heads and its cells."""
    lines = [f"| {' | '.join(cells)} |\n".replace("  ", " ") for cells in (heads, *rows)]
    return "".join([lines[0], f"|{'---|' * len(heads)}\n", *lines[1:]])


def table_of(columns: Mapping[str, Show], rows: Sequence[Figures]) -> str:
    """Format a Markdown table with one row for each result and one column for each figure."""
    return table(list(columns), [[show(row) for show in columns.values()] for row in rows])


def compared(rows: Mapping[str, Show], results: Sequence[Figures]) -> list[list[str]]:
    """Return the cells of a table that compares several results, with one row for each figure.

    The first cell of a row is the name of the figure. Each of the other cells is the figure of one result.
    """
    return [[name, *(show(result) for result in results)] for name, show in rows.items()]


def targets(aims: Sequence[tuple[str, float, float, str]]) -> str:
    """Format a table that compares measured values with their targets.

    Each entry of `aims` is a name, the target, the measured value and the format of the value. The value is rounded
    before it is compared. The target is a lower limit if the name contains "at least", otherwise an upper limit.
    """
    rows = []
    for what, aim, value, form in aims:
        shown = f"{value:{form}}"
        met = float(shown) >= aim if "at least" in what else float(shown) <= aim
        rows.append([what, f"{aim:g}", shown, "yes" if met else "no"])
    return "**Targets**\n\n" + table(["", "target", "measured", "met"], rows)


def measured_on(figures: Figures, script: str) -> str:
    """Return the line under a table, with the script, the hardware and the versions of the measurement."""
    where = dict(figures["environment"])
    line = f"`benchmarks/{script}` on {where.pop('cpu')}, {where.pop('cores')} cores, Python {where.pop('python')}"
    where.pop("system")
    names = ("duckdb", "ibis-framework", "pyspark", "feast", "redis", "pandas", "pyarrow")
    versions = ", ".join(f"{name} {where[name]}" for name in names if name in where and script != "loop.py")
    return f"\n{line}{', ' + versions if versions else ''}.\n"
