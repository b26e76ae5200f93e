"""What all tables of measurements share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
Show = Callable[[Any], str]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |\n".replace("  ", " ") for cells in (heads, *rows)]
    return "".join([lines[0], f"|{'---|' * len(heads)}\n", *lines[1:]])


def measured_on(figures: Figures, script: str) -> str:
    """The line under a table: hardware and versions."""
    where = dict(figures["environment"])
    line = f"`benchmarks/{script}` on {where.pop('cpu')}, {where.pop('cores')} cores, Python {where.pop('python')}"
    where.pop("system")
    names = ("duckdb", "ibis-framework", "pyspark", "feast", "redis", "pandas", "pyarrow")
    versions = ", ".join(f"{name} {where[name]}" for name in names if name in where and script != "loop.py")
    return f"\n{line}{', ' + versions if versions else ''}.\n"
