"""The output of kfp.local: kept in a log, and parsed for the start and end of every step."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from components.component import traits_of
from mtorl.runtime import progress, run_notes
from pipelines.steps import OnStep, Step

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '?([\w-]+)'?")
_CACHED = re.compile(r"Task '?([\w-]+)'? cache hit")
CACHED = "cached"
"""The note of a step that was answered from an earlier run."""
_FINISHED = re.compile(r"Task '?([\w-]+)'? finished with status (\w+)")


def step_at_work(log: str) -> str:
    """The step that is unfinished at the end of a log without colours; "" if there is none."""
    started = list(_STARTED.finditer(log))
    if not started or any(ended[1] == started[-1][1] for ended in _FINISHED.finditer(log, started[-1].end())):
        return ""
    return started[-1][1]


class PlainLog(io.TextIOBase):
    """Writes text without its colours to a file, and passes every whole line on.

    Attributes:
        fault: Why something could not be written. A full disk must end a step, not the reporting of that.
    """

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._file = path.open("wb", buffering=0)  # what can't be written now is not tried again at the end
        self._path, self._on_line, self._rest = path, on_line, ""
        self.fault: OSError | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def write(self, text: str) -> int:
        """Write text, which need not end with its line."""
        plain = _ANSI.sub("", text)
        content = plain.encode(errors="backslashreplace")
        try:
            if self._file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.fault = OSError(error.errno, error.strerror, str(self._path))
        *lines, self._rest = (self._rest + plain).split("\n")
        for line in lines:
            self._on_line(line)
        return len(text)


class CacheHits(logging.StreamHandler[PlainLog]):
    """Writes kfp.local's messages on its cache, which go to the root logger alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is about a step that was found in the cache."""
        return _CACHED.search(record.getMessage()) is not None


class StepWatcher(threading.Thread):
    """Turns the runner's lines and the steps' progress file into calls of ``on_step``.

    Attributes:
        input_error: The first refusal of the user's input; the last step may have another one in consequence.
    """

    def __init__(self, events: Path, on_step: OnStep) -> None:
        super().__init__(daemon=True)
        self._events, self._on_step = events, on_step
        self._offset, self._running = 0, ""
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self.input_error = ""

    def __enter__(self) -> StepWatcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()

    def on_line(self, text: str) -> None:
        """Parse a line of the runner."""
        if started := _STARTED.search(text):
            self._poll()
            with self._lock:
                self._running = started[1]
            self._tell(started[1], 0, 0, "")
        elif cached := _CACHED.search(text):
            self._tell(cached[1], 0, 0, CACHED)
            self._tell(cached[1], 1, 1, CACHED)
        elif (finished := _FINISHED.search(text)) and finished[1] == self._running:
            self._poll()
            if finished[2] != "SUCCESS":
                run_notes.note_silent_end(finished[1])
            self._tell(finished[1], 1, 1, "" if finished[2] == "SUCCESS" else finished[2].lower())

    def run(self) -> None:
        """Read the progress file, until the end of the block."""
        while not self._stop_asked.wait(0.2):
            self._poll()
        self._poll()

    def _poll(self) -> None:
        with self._lock:
            events, self._offset = progress.read(self._events, self._offset)
            running = self._running
        for event in events:
            if message := event.get("input_error"):
                self.input_error = self.input_error or str(message)
            else:
                # A step that says it has finished still has to write its outputs: only kfp's own line ends its bar.
                done, total = float(event["done"]), float(event["total"])  # type: ignore[arg-type]
                self._tell(running, min(done, 0.99 * total), total, str(event["note"]))

    def _tell(self, name: str, done: float, total: float, note: str) -> None:
        self._on_step(Step(name, traits_of(name).title), done, total, note)
