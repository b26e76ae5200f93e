"""How much of everything a run measures: the whole, or a quick look with the same code."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """Sizes of all measures; the defaults are the whole."""

    turns: tuple[tuple[int, int], ...] = ((100_000, 5), (1_000_000, 5), (10_000_000, 3), (50_000_000, 1))
    """Rows of a log, and turns of the builder and of the limit."""
    raw_rows: int = 10_000_000  # of a raw log (see log.py), once
    entity_rows: int = 1_100_000  # point-in-time retrieval
    online_users: int = 7_500
    reads: int = 5_000
    appends: int = 3_000


FULL = Plan()
QUICK = Plan(
    turns=((10_000, 1), (100_000, 1)),
    raw_rows=20_000,
    entity_rows=20_000,
    online_users=200,
    reads=300,
    appends=200,
)
