"""Summarises a touchpoint log in the few figures that a reader of the run report needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtorl.runtime.duckdb_progress import without_progress_bar

LONGEST = 30  # journeys of this length and longer share one bar


def summarise(log: Path) -> dict[str, Any]:
    """Rows, users, period, rates, channels and journey lengths of a canonical touchpoint log (Parquet)."""
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        without_progress_bar(db)
        db.from_parquet(str(log)).create_view("touchpoints")
        rows, users, first, last, click_rate, conversion_rate, cost = _one(
            db.execute(
                """SELECT count(*), count(DISTINCT user_id), min(timestamp)::DATE::TEXT, max(timestamp)::DATE::TEXT,
                          avg(click), avg(conversion), avg(cost) FROM touchpoints"""
            ).fetchone()
        )
        channels = db.execute(
            """SELECT channel, count(*) / sum(count(*)) OVER (), avg(click), avg(cost)
               FROM touchpoints GROUP BY channel ORDER BY count(*) DESC, channel"""
        ).fetchall()
        db.execute("CREATE TEMP TABLE journeys AS SELECT count(*) AS length FROM touchpoints GROUP BY user_id")
        (median,) = _one(db.execute("SELECT median(length) FROM journeys").fetchone())
        journeys = db.execute(
            "SELECT least(length, ?), count(*) FROM journeys GROUP BY ALL ORDER BY 1", [LONGEST]
        ).fetchall()
    return {
        "rows": rows,
        "users": users,
        "first": first,
        "last": last,
        "click_rate": click_rate,
        "conversion_rate": conversion_rate,
        "cost": cost,
        "channels": [
            {"channel": name, "share": share, "click_rate": clicks, "cost": mean_cost}
            for name, share, clicks, mean_cost in channels
        ],
        "median_journey": median,
        "journeys": [{"length": length, "users": count} for length, count in journeys],
    }


def _one(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    assert row is not None  # an aggregate always gives a row
    return row
