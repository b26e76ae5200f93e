"""Age of the newest decision in the log, and whether that is long for this experiment.

newest = newest_of(read.db, now)                # None: there is none
newest["silence"]                               # in words, if nothing has come for long

Request rates differ by a factor of a thousand between shops, and between noon and night. So the age is compared with
the longest time without a decision in the week before: twice as long is not usual.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from monitoring.experiments.document import Newest
from mtorl.pages.words import duration

if TYPE_CHECKING:
    import duckdb

_FACTOR = 2.0  # of the longest time without a decision
_LEAST = 900.0  # seconds: routers upload their logs each minute, and may wait for a lake that is away
_COMPARED_DAYS = 7  # a shop that is closed on Sundays has one in it


def newest_of(db: duckdb.DuckDBPyConnection, now: float) -> Newest | None:
    """Find the newest decision of an experiment, of any stage and arm; None: there is none.

    Args:
        db: Holds the sums of the experiment (`monitoring/verdict/experiment_users.py`).
        now: Seconds since 1970. Later decisions, of a clock that is ahead, are ignored.
    """
    ((newest, longest),) = db.execute(
        f"""WITH busy AS (
            SELECT minute AS start, max(last) AS newest FROM activity WHERE last <= $now GROUP BY start),
        gap AS (
            SELECT start, newest, start - lag(start) OVER (ORDER BY start) AS length FROM busy)
        SELECT max(newest), epoch(max(length) FILTER (
            start > (SELECT max(newest) FROM busy) - to_days({_COMPARED_DAYS})))
        FROM gap""",
        {"now": datetime.fromtimestamp(now, UTC)},
    ).fetchall()
    return None if newest is None else _told(newest.timestamp(), float(longest or 0.0), now)


def _told(newest: float, longest: float, now: float) -> Newest:
    age, at = max(0.0, now - newest), datetime.fromtimestamp(newest, UTC)
    silence = None
    if age > max(_LEAST, _FACTOR * longest):
        usual = f"; in the week before, the longest time without one was {duration(longest)}" if longest else ""
        silence = f"no decision has come for {duration(age)}, since {at:%Y-%m-%d %H:%M} UTC{usual}"
    return Newest(at=at.isoformat(timespec="seconds"), age_seconds=age, longest_seconds=longest, silence=silence)
