"""Reports the progress of a long-running step to the process that shows it.

In a `listen` block, reports go to the given function. Otherwise, they are appended to the file in ``MTORL_PROGRESS``
as JSON lines. If this variable is not set, they go to the log, at most every five seconds.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtorl.runtime.message import rephrased

ENV = "MTORL_PROGRESS"
_LOG = logging.getLogger(__name__)
_last_line = 0.0
_listener: Callable[[float, float, str], None] | None = None
# Latest arguments of `report`: done, total, note, ahead.
_newest = (0.0, 0.0, "", 1.0)
# Largest share passed to `within` since the latest `report`.
_within = 0.0


def report(done: float, total: float, note: str = "", ahead: float = 1.0) -> None:
    """Report that `done` of `total` units of work are finished, and that the next `ahead` units begin."""
    global _newest, _within
    _newest, _within = (done, total, note, ahead), 0.0
    _send(done, total, note)


def within(share: float) -> None:
    """Report the finished share, from 0 to 1, of the units that began with the latest `report`.

    A smaller share than before is ignored, so that the progress bar never moves backwards.
    """
    global _within
    done, total, note, ahead = _newest
    _within = max(_within, share)
    _send(min(done + _within * ahead, total), total, note)


def advance() -> None:
    """Report that the current units of work are finished, and that as many new units begin."""
    done, total, note, ahead = _newest
    report(min(done + ahead, total), total, note, ahead)


def _send(done: float, total: float, note: str) -> None:
    global _last_line
    if _listener is not None:
        _listener(done, total, note)
    elif path := os.environ.get(ENV):
        _append(path, {"done": done, "total": total, "note": note})
    elif time.monotonic() - _last_line > 5:
        _last_line = time.monotonic()
        _LOG.info("%3.0f %% %s", 100 * done / max(total, 1e-9), note)


@contextmanager
def listen(on_report: Callable[[float, float, str], None]) -> Iterator[None]:
    """Call `on_report` with done, total and note for each report of this process until the end of the block.

    `on_report` runs in the thread that calls `report`.
    """
    global _listener
    before, _listener = _listener, on_report
    try:
        yield
    finally:
        _listener = before


def input_error(error: BaseException) -> None:
    """Report an error in the user's input, which is shown without a traceback."""
    if path := os.environ.get(ENV):
        said = rephrased(error, str(error))
        _append(path, {"input_error": said, "code": said.code, "values": said.values})


def read(path: Path, offset: int) -> tuple[list[dict[str, object]], int]:
    """Return the reports in a file after ``offset``, and the offset for the next call."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end


def _append(path: str, event: dict[str, object]) -> None:
    # A single system call keeps the lines of several processes apart.
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(event, default=str).encode() + b"\n")


def without_progress_bar(connection: Any) -> None:
    """Switch off DuckDB's own progress bar, if it is on."""
    ((drawn,),) = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if drawn:
        connection.execute("SET enable_progress_bar = false")


@contextmanager
def reporting_queries(connection: Any, seconds: float = 1.0) -> Iterator[None]:
    """Report the progress of each DuckDB query with `within`, every `seconds`, until the end of the block."""
    import duckdb

    try:
        connection.execute("SET enable_progress_bar_print = false")
        # DuckDB measures a query's progress only if its progress bar is enabled.
        connection.execute("SET enable_progress_bar = true")
    except duckdb.Error:  # a notebook without ipywidgets
        yield
        return
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(seconds):
            if (percent := connection.query_progress()) >= 0:  # -1: no query is running
                within(percent / 100)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
