from __future__ import annotations

import duckdb
import pytest

from mtorl.runtime.duckdb_progress import without_progress_bar


class Notebook:
    """A connection in a notebook without ipywidgets: the bar is off, and can't be set."""

    def execute(self, query: str) -> duckdb.DuckDBPyConnection:
        if query.startswith("SET"):
            raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
        return duckdb.connect().execute("SELECT false")


@pytest.mark.parametrize("before", [True, False])
def test_the_bar_is_off_afterwards(before: bool) -> None:
    with duckdb.connect() as db:
        db.execute(f"SET enable_progress_bar = {before}")
        without_progress_bar(db)
        assert db.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]


def test_where_it_is_off_nothing_is_set() -> None:
    without_progress_bar(Notebook())
