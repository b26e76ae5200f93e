"""Generates a synthetic touchpoint log of any size, sorted by time, and defines the sizes of the measurements.

The most active fraction q of the users has about sqrt(q) of all touchpoints (Pareto, exponent 2). A raw log has
duplicated and late rows, and times in whole seconds. The values depend only on the row number, so a log of the same
size is always the same.
"""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._process import clock

# Built-in data set whose columns the log has.
DATASET = "simulator-aggregates"
# Mean number of touchpoints per user.
MEAN = 12
DAYS = 90
# Largest expected number of touchpoints of a user in a clean log.
_MOST = 8_000


def users_of(rows: int) -> int:
    return max(rows // MEAN, 10)


def generate(rows: int, path: str, raw: bool = False) -> dict[str, Any]:
    """Write a log of about `rows` touchpoints as one Parquet file.

    Returns:
        Figures of the log, where `longest` is the most active user's number of touchpoints.
    """
    import duckdb

    from mtorl.log.dataset import DatasetSpec

    spec = DatasetSpec.load(DATASET)
    query = _rows_sql(rows, spec.channels, raw)
    if raw:
        twice = f"FROM ({query}) UNION ALL FROM ({query}) WHERE i % 100 = 0"
        query = f"SELECT * REPLACE (date_trunc('second', timestamp) AS timestamp) FROM ({twice})"
    names = [*spec.log_columns, *(["created_timestamp"] if raw else [])]
    columns = ", ".join(f'"{name}"' for name in names)
    with clock() as time, duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY (SELECT {columns} FROM ({query})) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        counts = f"SELECT count(*) AS n FROM '{path}' GROUP BY user_id"
        ((total, users, longest),) = connection.sql(f"SELECT sum(n), count(*), max(n) FROM ({counts})").fetchall()
    counted = {"rows": int(total), "users": users, "longest": longest, "columns": len(names)}
    return {**counted, "file_mib": Path(path).stat().st_size / 2**20, **time}


def _rows_sql(rows: int, channels: tuple[str, ...], raw: bool) -> str:
    users = users_of(rows)
    names = "[" + ", ".join(f"'{name}'" for name in channels) + "]"
    # Mean time between two rows, microseconds.
    apart = DAYS * 86_400_000_000 // rows
    # User u has about rows / (2 * sqrt(users * u)) touchpoints. A clean log omits users with more than `_MOST`.
    least = 0.0 if raw else MEAN / (2 * _MOST)

    def luck(what: int, of: str = "i") -> str:
        """Return SQL for a random number in [0, 1), which depends only on `of` and `what`."""
        return f"(hash({of} * 64 + {what}) / 18446744073709551616.0)"

    def pick(values: str, what: int, of: str = "i") -> str:
        return f"{values}[1 + floor({luck(what, of)} * len({values}))::INT]"

    return f"""
        WITH dealt AS (
            SELECT range AS i, {least} + {1 - least} * {luck(1, "range")} AS place,
                   least(floor({users} * place * place)::BIGINT, {users} - 1) AS u
            FROM range({rows})
        ), shown AS (
            SELECT *,
                   make_timestamptz(1735689600000000 + i * {apart} + floor({luck(2)} * {apart})::BIGINT) AS timestamp,
                   {pick(names, 3, "u")} AS favourite, {luck(4)} < 0.4 AS favoured
            FROM dealt
        ), answered AS (
            SELECT *, CASE WHEN favoured THEN favourite ELSE {pick(names, 5)} END AS channel,
                   ({luck(6)} < 0.08)::BIGINT AS click
            FROM shown
        )
        SELECT i, 'u' || lpad((u * 2654435761 % {users})::VARCHAR, 9, '0') AS user_id, timestamp,
               'c' || (1 + floor({luck(7)} * 20)::INT) AS campaign_id, channel,
               round(0.05 + 0.4 * {luck(8)}, 4) AS cost, click, (click = 1 AND {luck(9)} < 0.1)::BIGINT AS conversion,
               CASE WHEN click = 1 AND {luck(9)} < 0.1 THEN round(5 + 60 * {luck(10)}, 2) ELSE 0.0 END AS revenue,
               0.6 / {len(channels)} + CASE WHEN channel = favourite THEN 0.4 ELSE 0.0 END AS propensity,
               extract(hour FROM timestamp)::DOUBLE AS hour,
               {pick("['phone', 'tablet', 'desktop']", 11)} AS device,
               {pick("['feed', 'banner', 'story']", 12)} AS placement,
               {pick("['18-24', '25-34', '35-49', '50+']", 13, "u")} AS age_group,
               floor({luck(14, "u")} * 2000)::DOUBLE AS tenure_days,
               {pick("['north', 'south', 'east', 'west']", 15, "u")} AS region,
               timestamp + CASE WHEN {luck(16)} < 0.01 THEN to_microseconds(floor({luck(17)} * 86400e6)::BIGINT)
                                ELSE to_microseconds(0) END AS created_timestamp
        FROM answered"""


class Plan(NamedTuple):
    """The sizes of all measurements.

    Attributes:
        entity_rows: Number of rows for which features are retrieved.
    """

    turns: tuple[tuple[int, int], ...] = ((100_000, 5), (1_000_000, 5), (10_000_000, 3), (50_000_000, 1))
    """Sizes to measure. Each has the number of rows of the log, and how often the builder and the lower bound for its
    time are run."""
    raw_rows: int = 10_000_000
    entity_rows: int = 1_100_000
    online_users: int = 7_500
    reads: int = 5_000
    appends: int = 3_000


QUICK = Plan(
    turns=((10_000, 1), (100_000, 1)), raw_rows=20_000, entity_rows=20_000, online_users=200, reads=300, appends=200
)
