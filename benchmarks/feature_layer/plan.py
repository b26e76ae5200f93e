"""How much of everything a run measures: the whole, or a quick look with the same code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes of all measures."""

    runs: dict[int, int]  # rows of a log -> turns of the builder and of the limit
    raw_rows: int  # of a raw log (see log.py), once
    per_user: dict[int, int]  # rows -> users run of the per-user loop (0: all; a size not named: not run)
    groupby: dict[int, int]  # the same for the groupby loop
    loop_limit_s: float  # longest time of one such loop
    entity_rows: int  # point-in-time retrieval of all views
    outputs: tuple[str, ...]  # to which its answer goes: arrow, parquet
    stock_rows: tuple[int, ...]  # retrieval of one view with Feast's own store
    stock_limit_s: float
    stock_limit_mib: float
    online_users: int
    reads: int
    appends: int
    spark_rows: int
    loader_rows: int
    loader_windows: int


FULL = Plan(
    runs={100_000: 5, 1_000_000: 5, 10_000_000: 3, 50_000_000: 1},
    raw_rows=10_000_000,
    per_user={100_000: 1000, 1_000_000: 300, 10_000_000: 50},
    groupby={100_000: 0, 1_000_000: 10_000, 10_000_000: 10_000},
    loop_limit_s=300,
    entity_rows=1_100_000,
    outputs=("arrow", "parquet"),
    stock_rows=(110_000, 1_100_000),
    stock_limit_s=300,
    stock_limit_mib=12_000,
    online_users=7_500,
    reads=5_000,
    appends=3_000,
    spark_rows=1_000_000,
    loader_rows=1_000_000,
    loader_windows=200_000,
)

QUICK = Plan(
    runs={10_000: 1, 100_000: 1},
    raw_rows=20_000,
    per_user={10_000: 50, 100_000: 50},
    groupby={10_000: 500, 100_000: 500},
    loop_limit_s=20,
    entity_rows=20_000,
    outputs=("parquet",),
    stock_rows=(20_000,),
    stock_limit_s=20,
    stock_limit_mib=4_000,
    online_users=200,
    reads=300,
    appends=200,
    spark_rows=5_000,
    loader_rows=20_000,
    loader_windows=5_000,
)
