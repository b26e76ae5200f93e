"""Tests that progress reports arrive at a listener in this process, or in a file."""

from pathlib import Path

import duckdb
import pytest

from mtorl.runtime import progress
from mtorl.runtime.progress import reporting_queries, without_progress_bar


def test_a_listener_gets_reports_until_its_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    monkeypatch.setenv(progress.ENV, str(file))
    outer: list[tuple[float, float, str]] = []
    inner: list[tuple[float, float, str]] = []
    with progress.listen(lambda *report: outer.append(report)):
        progress.report(1, 4, "a quarter")
        with pytest.raises(RuntimeError), progress.listen(lambda *report: inner.append(report)):
            progress.report(2, 4)
            raise RuntimeError
        progress.report(3, 4)
    assert (outer, inner) == ([(1, 4, "a quarter"), (3, 4, "")], [(2, 4, "")])
    assert not file.exists()
    progress.report(4, 4)
    assert progress.read(file, 0)[0] == [{"done": 4, "total": 4, "note": ""}]


def test_progress_within_a_report_only_increases() -> None:
    told: list[tuple[float, float, str]] = []
    with progress.listen(lambda *report: told.append(report)):
        progress.report(2, 5, "user_history", ahead=0.5)
        for share in (0.2, 0.8, 0.1):  # 0.1 belongs to a second query
            progress.within(share)
        progress.advance()
        progress.within(1.0)
        progress.advance()
    assert told == [(done, 5, "user_history") for done in (2, 2.1, 2.4, 2.4, 2.5, 3.0, 3.0)]


class Notebook:
    """A DuckDB connection without ipywidgets, whose progress bar cannot be switched on."""

    def execute(self, query: str) -> duckdb.DuckDBPyConnection:
        if query.startswith("SET"):
            raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
        return duckdb.connect().execute("SELECT false")


@pytest.mark.parametrize("before", [True, False])
def test_duckdbs_progress_bar_is_switched_off(before: bool) -> None:
    with duckdb.connect() as db:
        db.execute(f"SET enable_progress_bar = {before}")
        without_progress_bar(db)
        assert db.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]


def test_a_long_query_reports_progress_within_the_current_unit() -> None:
    told: list[tuple[float, float, str]] = []
    with duckdb.connect() as db, progress.listen(lambda *report: told.append(report)):
        progress.report(2, 5, "user_history")
        with reporting_queries(db, seconds=0.001):
            while len(told) < 4:
                db.execute("SELECT sum(sqrt(a.range + b.range)) FROM range(2000) a, range(2000) b").fetchall()
    assert all(2 <= done <= 3 and (total, note) == (5, "user_history") for done, total, note in told)


def test_a_notebook_without_the_bar_is_no_error() -> None:
    without_progress_bar(Notebook())
    with reporting_queries(Notebook()):
        pass
