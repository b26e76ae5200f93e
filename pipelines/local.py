"""Run a pipeline on this machine through kfp.local, with progress bars and a log, and give back what it produced.

kfp.local prints everything, leaks temporary folders, names the run's folder itself and raises exceptions that hide the
cause. This wrapper gives each run its own root, keeps the output in ``<root>/pipeline.log`` and reads the results from
the ``executor_output.json`` that every step leaves.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kfp import local

from mtorl.runtime import progress

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '?([\w-]+)'?")
_FINISHED = re.compile(r"Task '?([\w-]+)'? finished with status (\w+)")

OnStep = Callable[[str, float, float, str], None]
"""Called with (step, done, total, note); total 0 means that the step does not say how far it is."""


class PipelineError(RuntimeError):
    """A step failed; the message holds its last error line and the path of the log."""


class InputError(ValueError):
    """A step could not use what the user gave it; the message is meant for the user."""


@dataclass(frozen=True)
class StepResult:
    """What one step left behind.

    Attributes:
        values: Output parameters by name.
        paths: Paths of the output artifacts by name.
    """

    values: dict[str, Any]
    paths: dict[str, Path]


def run(pipeline: Callable[..., Any], arguments: dict[str, Any], root: Path, on_step: OnStep) -> dict[str, StepResult]:
    """Run a pipeline and wait for it.

    Args:
        pipeline: A function decorated with ``dsl.pipeline``.
        arguments: Its parameters.
        root: An empty folder for the run's outputs and log.
        on_step: Told about every start, advance and end of a step.

    Returns:
        Results by step name.

    Raises:
        InputError: A step refused the user's input.
        PipelineError: A step failed.
    """
    root = root.resolve()
    workspace, temporary = root / "workspace", root / "tmp"
    for folder in (workspace, temporary):
        folder.mkdir(parents=True)
    events = root / "progress.jsonl"
    log = root / "pipeline.log"
    # kfp deletes the workspace it is given after every run: it must be a fresh folder of ours, never the user's.
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=str(workspace))
    watcher = _Watcher(events, on_step)
    error: Exception | None = None
    with log.open("w") as file, _environment(TMPDIR=str(temporary), **{progress.ENV: str(events)}), _restored():
        tee = _Tee(file, watcher.line)
        with contextlib.redirect_stdout(tee), contextlib.redirect_stderr(tee), watcher:
            try:
                pipeline(**arguments)
            except Exception as raised:  # kfp raises RuntimeError for a step, many other types for its own faults
                error = raised
            except BaseException:  # Ctrl-C or SIGTERM: kfp leaves the step that it has started to itself
                _end_children()
                raise
    if watcher.input_error:
        raise InputError(watcher.input_error)
    if error is not None:
        raise PipelineError(f"{_last_error(log) or error} (whole log: {log})") from error
    return _results(root)


class _Watcher(threading.Thread):
    """Follows the progress file and the runner's own lines, and turns both into calls of ``on_step``."""

    def __init__(self, events: Path, on_step: OnStep) -> None:
        super().__init__(daemon=True)
        self._events, self._on_step = events, on_step
        self._offset, self._step = 0, ""
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self.input_error = ""

    def __enter__(self) -> _Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()

    def line(self, text: str) -> None:
        if found := _STARTED.search(text):
            self._poll()
            with self._lock:
                self._step = found[1]
            self._on_step(found[1], 0, 0, "")
        elif (found := _FINISHED.search(text)) and found[1] == self._step:
            self._poll()
            self._on_step(found[1], 1, 1, "" if found[2] == "SUCCESS" else found[2].lower())

    def run(self) -> None:
        while not self._stop_asked.wait(0.2):
            self._poll()
        self._poll()

    def _poll(self) -> None:
        with self._lock:
            events, self._offset = progress.read(self._events, self._offset)
            step = self._step
        for event in events:
            if message := event.get("input_error"):
                self.input_error = str(message)
            else:
                # A step that says it has finished still has to write its outputs: only kfp's own line ends its bar.
                done, total = float(event["done"]), float(event["total"])  # type: ignore[arg-type]
                self._on_step(step, min(done, 0.99 * total), total, str(event["note"]))


class _Tee(io.TextIOBase):
    """Writes plain text to a file and hands every whole line on."""

    def __init__(self, file: io.TextIOBase | Any, on_line: Callable[[str], None]) -> None:
        self._file, self._on_line, self._rest = file, on_line, ""

    def write(self, text: str) -> int:
        plain = _ANSI.sub("", text)
        self._file.write(plain)
        self._file.flush()
        *lines, self._rest = (self._rest + plain).split("\n")
        for line in lines:
            self._on_line(line)
        return len(text)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Undo what kfp.local does to this process: it indents ``print`` and reconfigures the root logger."""
    root = logging.getLogger()
    before = builtins.print, root.handlers[:], root.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
        try:
            yield
        finally:
            builtins.print, root.handlers[:] = before[0], before[1]
            root.setLevel(before[2])


def _end_children() -> None:
    """Stop the running step and what it has started; a terminal's Ctrl-C reaches them, a SIGTERM to us does not."""
    children = psutil.Process().children(recursive=True)
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                signal(child)
        _, children = psutil.wait_procs(children, timeout=3)


def _last_error(log: Path) -> str:
    lines = (line.strip() for line in reversed(log.read_text().splitlines()))
    return next((line for line in lines if re.match(r"^[A-Za-z_.]*(Error|Exception|Exit)\b", line)), "")


def _results(root: Path) -> dict[str, StepResult]:
    results = {}
    for path in sorted(root.glob("*/*/executor_output.json")):
        content = json.loads(path.read_text())
        artifacts = content.get("artifacts", {})
        results[path.parent.name] = StepResult(
            values=content.get("parameterValues", {}),
            paths={name: Path(found["artifacts"][0]["uri"]) for name, found in artifacts.items()},
        )
    return results
