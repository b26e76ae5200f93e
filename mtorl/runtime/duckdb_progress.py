"""Progress of DuckDB's queries, in our own bars instead of DuckDB's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtorl.runtime import progress


def without_progress_bar(connection: Any) -> None:
    """Switch the bar off where it is on: a notebook without ipywidgets, where it is off, refuses the setting."""
    ((drawn,),) = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if drawn:
        connection.execute("SET enable_progress_bar = false")


@contextmanager
def reporting_queries(connection: Any, seconds: float = 1.0) -> Iterator[None]:
    """Report the share of each query that is done (`progress.within`) every `seconds`, until the end of the block."""
    import duckdb

    try:
        connection.execute("SET enable_progress_bar_print = false")
        connection.execute("SET enable_progress_bar = true")  # else DuckDB does not measure it
    except duckdb.Error:  # in a notebook without ipywidgets
        yield
        return
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(seconds):
            if (percent := connection.query_progress()) >= 0:  # -1: no query is at work
                progress.within(percent / 100)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
