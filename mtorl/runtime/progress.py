"""Reports the progress of a long-running step to the process that shows it.

If the step runs in the same process, `listen` passes the reports to a function. If the step runs in a subprocess or a
pod, the environment variable ``MTORL_PROGRESS`` contains the path of a file. Each report is appended to this file as a
JSON line, and the process that started the step reads the file and draws a progress bar. In all other cases, reports
are written to the log, at most every five seconds.
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
# Arguments of the latest call of `report`: done, total, note, ahead.
_newest = (0.0, 0.0, "", 1.0)
# Largest share that was passed to `within` since the latest call of `report`.
_within = 0.0


def report(done: float, total: float, note: str = "", ahead: float = 1.0) -> None:
    """Report that `done` of `total` units of work are finished, and that work on the next `ahead` units begins."""
    global _newest, _within
    _newest, _within = (done, total, note, ahead), 0.0
    _send(done, total, note)


def within(share: float) -> None:
    """Report how much of the current work is finished, from 0 to 1.

    The current work is the `ahead` units in the latest call of `report`. A smaller share than before is ignored, so
    that the progress bar never moves backwards.
    """
    global _within
    done, total, note, ahead = _newest
    _within = max(_within, share)
    _send(min(done + _within * ahead, total), total, note)


def advance() -> None:
    """Report that the current units of work are finished, and that work on the same number of new units begins."""
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
    """Call `on_report` with done, total and note for each report of this process, until the end of the block.

    `on_report` runs in the thread that calls `report`.
    """
    global _listener
    before, _listener = _listener, on_report
    try:
        yield
    finally:
        _listener = before


def input_error(error: BaseException) -> None:
    """Report an error in the user's input. The process that started the step shows it without a traceback."""
    if path := os.environ.get(ENV):
        said = rephrased(error, str(error))
        _append(path, {"input_error": said, "code": said.code, "values": said.values})


def read(path: Path, offset: int) -> tuple[list[dict[str, object]], int]:
    """Read the reports that were appended to a file after ``offset``.

    Returns the reports, and the offset for the next call. An incomplete last line is left for the next call.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end


def _append(path: str, event: dict[str, object]) -> None:
    # Write the whole line with one system call, so that lines of several processes do not mix.
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(event, default=str).encode() + b"\n")


def without_progress_bar(connection: Any) -> None:
    """Switch off DuckDB's own progress bar.

    The setting is changed only if the bar is on, because DuckDB rejects the setting in a notebook without ipywidgets.
    """
    ((drawn,),) = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if drawn:
        connection.execute("SET enable_progress_bar = false")


@contextmanager
def reporting_queries(connection: Any, seconds: float = 1.0) -> Iterator[None]:
    """Report the progress of each DuckDB query with `within`, every `seconds`, until the end of the block.

    A finished query thus counts as all of the current units of work.
    """
    import duckdb

    try:
        connection.execute("SET enable_progress_bar_print = false")
        # DuckDB measures the progress of a query only if its progress bar is enabled.
        connection.execute("SET enable_progress_bar = true")
    except duckdb.Error:  # DuckDB rejects the setting in a notebook without ipywidgets
        yield
        return
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(seconds):
            if (percent := connection.query_progress()) >= 0:  # -1 means that no query is running
                within(percent / 100)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
