"""From touchpoints to feature sources: one query gives each user's last n touches as they were known at each moment.

    build_sources("touchpoints.parquet", spec, "features/data")   ->  user_history.parquet, user_static.parquet

A history row is a snapshot: what the platform knew of a user once one more touchpoint had arrived. If touchpoints
arrive in the order in which they happened, the snapshot of a touchpoint is simply the last n touches up to and
including it. A touchpoint that arrives late (`created_timestamp`, where the log has that column) appears in snapshots
taken after its arrival only; the newest touchpoint known gives the snapshot's event time. A point-in-time join on both
times then never sees what was not there yet.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from mtorl.dataset import DatasetSpec
from mtorl.windows import history_columns

HISTORY = "user_history"
STATIC = "user_static"

_OUTCOME_TYPES = {
    "hist_channel": "VARCHAR",
    "hist_click": "BIGINT",
    "hist_conversion": "BIGINT",
    "hist_revenue": "DOUBLE",
    "hist_cost": "DOUBLE",
}


def history_types(spec: DatasetSpec) -> dict[str, str]:
    """The list columns of a history and the DuckDB type of their elements.

    To what the causal window reads this adds `hist_timestamp`, microseconds since 1970 (Feast's own list of timestamps
    keeps whole seconds only).
    """
    kinds = {f"hist_{c.name}": "DOUBLE" if c.kind == "numeric" else "VARCHAR" for c in spec.context}
    types = {**_OUTCOME_TYPES, **kinds}
    return {**{name: types[name] for name in history_columns(spec)}, "hist_timestamp": "BIGINT"}


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that writes timestamps as UTC, whatever the machine's time zone."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    return con


def open_log(con: duckdb.DuckDBPyConnection, log_parquet: Path | str) -> None:
    """The touchpoint log as the view `log`; its times in microseconds UTC, however the file keeps them."""
    con.read_parquet(str(log_parquet)).create_view("log_file")
    con.execute("CREATE TEMP VIEW log AS SELECT * REPLACE (timestamp::TIMESTAMPTZ AS timestamp) FROM log_file")


def quoted(name: str) -> str:
    """A column name as SQL; data sets may call a column `order`."""
    return f'"{name}"'


def build_sources(log_parquet: Path | str, spec: DatasetSpec, out_dir: Path | str) -> None:
    """Write the Parquet sources of the feature views, replacing earlier ones in one step.

    Args:
        log_parquet: Canonical touchpoint log, optionally with `created_timestamp` (when the row arrived).
        spec: Description of the data set.
        out_dir: Folder for user_history.parquet (one row per touchpoint) and, if the data set has static columns,
            user_static.parquet (one row per user).
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with connect() as con:
        open_log(con, log_parquet)
        _create_touches(con, spec)
        queries = {HISTORY: _history_sql(spec)} | ({STATIC: _static_sql(spec)} if spec.static else {})
        for name, query in queries.items():
            rows = con.sql(f"FROM ({query}) ORDER BY user_id, event_timestamp, created_timestamp")
            rows.write_parquet(str(out / f"{name}.parquet"), use_tmp_file=True)


def _create_touches(con: duckdb.DuckDBPyConnection, spec: DatasetSpec) -> None:
    """The log with the names and types of the history, and the time at which each row was known."""
    numeric = {f"hist_{c.name}" for c in spec.context if c.kind == "numeric"}
    columns = []
    for name, kind in history_types(spec).items():
        value = f"CAST({quoted(name.removeprefix('hist_'))} AS {kind})"
        if name == "hist_timestamp":
            value = "epoch_us(timestamp)"
        elif name in numeric:
            # Feast's online store turns a null inside a list into 0.0; it keeps NaN, which a window reads as null.
            value = f"coalesce({value}, 'NaN')"
        columns.append(f"{value} AS {quoted(name)}")
    log_columns = [row[0] for row in con.execute("DESCRIBE log").fetchall()]
    # A log without arrival times is a history that was complete at once: each row was known when it happened.
    arrived = (
        "greatest(timestamp, created_timestamp::TIMESTAMPTZ)" if "created_timestamp" in log_columns else "timestamp"
    )
    con.execute(
        f"CREATE TEMP VIEW touches AS SELECT user_id, timestamp AS event_timestamp, {arrived} AS created_timestamp, "
        f"{', '.join(columns)} FROM log"
    )


def _history_sql(spec: DatasetSpec) -> str:
    # The order stands inside list(): that of a sorted subquery is lost when DuckDB works in parallel.
    lists = ", ".join(
        f"list({quoted(name)} ORDER BY event_timestamp) {{over}} AS {quoted(name)}" for name in history_types(spec)
    )
    return f"""
        WITH late_users AS (  -- with a touchpoint that arrived after a younger one
            SELECT DISTINCT user_id
            FROM (SELECT user_id, created_timestamp < lag(created_timestamp) OVER journey AS late
                  FROM touches WINDOW journey AS (PARTITION BY user_id ORDER BY event_timestamp))
            WHERE late
        ),
        in_order AS (
            SELECT user_id, event_timestamp, created_timestamp, {lists.format(over="OVER last_n")}
            FROM touches ANTI JOIN late_users USING (user_id)
            WINDOW last_n AS (PARTITION BY user_id ORDER BY event_timestamp ROWS {spec.window - 1} PRECEDING)
        ),
        known AS (  -- for each arrival of such a user, the last n touches that had arrived by then
            SELECT arrival.event_timestamp AS arrival, arrival.created_timestamp AS known_at, touch.*
            FROM (FROM touches SEMI JOIN late_users USING (user_id)) AS arrival
            JOIN touches AS touch
              ON touch.user_id = arrival.user_id AND touch.created_timestamp <= arrival.created_timestamp
            QUALIFY row_number() OVER (
                PARTITION BY arrival.user_id, arrival.event_timestamp ORDER BY touch.event_timestamp DESC
            ) <= {spec.window}
        ),
        out_of_order AS (
            SELECT user_id, max(event_timestamp) AS event_timestamp, known_at AS created_timestamp,
                   {lists.format(over="")}
            FROM known GROUP BY user_id, arrival, known_at
        )
        FROM in_order UNION ALL BY NAME FROM out_of_order"""


def _static_sql(spec: DatasetSpec) -> str:
    # Known since before the first touchpoint (a log does not tell since when), or that touchpoint's strictly past join
    # would find nothing. The first value stands: a later one would be news from the future.
    columns = ", ".join(f"arg_min({quoted(c.name)}, timestamp) AS {quoted(c.name)}" for c in spec.static)
    return f"""
        SELECT user_id, min(timestamp) - INTERVAL 1 DAY AS event_timestamp, event_timestamp AS created_timestamp,
               {columns}
        FROM log GROUP BY user_id"""
