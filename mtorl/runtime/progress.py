"""How a long-running step says how far it is.

Whoever calls a step in its own process hears it through `listen`. A step may also run in a subprocess of a local
pipeline runner or in a pod, so the other channel is a file: when ``MTORL_PROGRESS`` names one, every report is appended
to it as a JSON line and whoever started the step draws the bar. With neither, the report becomes a log line, at most
one every five seconds.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ENV = "MTORL_PROGRESS"
_LOG = logging.getLogger(__name__)
_last_line = 0.0
_listener: Callable[[float, float, str], None] | None = None


def report(done: float, total: float, note: str = "") -> None:
    """Say that ``done`` of ``total`` units are finished.

    Args:
        done: Finished units, 0..total.
        total: All units.
        note: A few words beside the bar, such as the current loss.
    """
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
    """Hear the reports of this process, instead of the file or the log, until the end of the block.

    Args:
        on_report: Called with the arguments of `report`, in the thread that reports.
    """
    global _listener
    before, _listener = _listener, on_report
    try:
        yield
    finally:
        _listener = before


def input_error(message: str) -> None:
    """Hand a fault of the user's input to whoever started the step, so that it need not be dug out of a traceback."""
    if path := os.environ.get(ENV):
        _append(path, {"input_error": message})


def read(path: Path, offset: int) -> tuple[list[dict[str, object]], int]:
    """Read the events appended since ``offset``.

    Returns:
        The complete events and the offset to go on from.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end


def _append(path: str, event: dict[str, object]) -> None:
    # One write of a short line to a file opened for appending: lines of several writers do not mix.
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(event).encode() + b"\n")
