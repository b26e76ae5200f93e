"""DuckDB draws a progress bar on the console of a long query, and in notebooks; our commands draw their own."""

from __future__ import annotations

from typing import Any


def without_progress_bar(connection: Any) -> None:
    """Switch the bar off where it is on.

    Elsewhere nothing is set: in a notebook without ipywidgets, where it is off, DuckDB refuses to hear of it at all.

    Args:
        connection: A `duckdb.DuckDBPyConnection`.
    """
    ((drawn,),) = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if drawn:
        connection.execute("SET enable_progress_bar = false")
