"""Runs a pipeline on this machine through kfp.local, and adds progress reports, a log file and results."""

from __future__ import annotations

import builtins
import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kfp import local

from components.component import traits_of
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import remove
from mtorl.runtime.message import Message
from mtorl.runtime.step import RUN_ID, RUNS, note_silent_end
from pipelines.steps import OnStep, Step

TEMPORARY = "tmp"
"""Name of the folder, in a run's folder, for the temporary files of its steps."""


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '?([\w-]+)'?")
_CACHED = re.compile(r"Task '?([\w-]+)'? cache hit")
CACHED = "cached"
"""Note that the progress display shows for a step whose outputs are reused from an earlier run."""
_FINISHED = re.compile(r"Task '?([\w-]+)'? finished with status (\w+)")
_RESULT = "executor_output.json"
_EVENTS = "progress.jsonl"
_CODE = ("mtorl", "features", "serving", "monitoring", "components")


class PipelineError(RuntimeError):
    """Raised if a step has failed. The message contains the last error line and the path of the log."""


@dataclass(frozen=True)
class StepResult:
    """The outputs of one step.

    Attributes:
        values: Output parameters by name. The name of a single return value is "Output".
        metrics: Metrics that the step has logged.
        paths: Paths of the output artifacts, by name.
    """

    values: dict[str, Any]
    metrics: dict[str, Any]
    paths: dict[str, Path]


def run(
    pipeline: Callable[..., Any],
    arguments: dict[str, Any],
    root: Path,
    on_step: OnStep,
    cache: Path | None = None,
    notes: Path | None = None,
) -> dict[str, StepResult]:
    """Run a pipeline, wait until it ends, and return the results of its steps by name.

    Args:
        root: Folder for the run's outputs and log. Outputs of an earlier run in it are reused.
        cache: Folder of kfp's cache. None disables caching.
        notes: Folder in which steps store the result of the run. If None, the result is not stored.

    Raises:
        InputError: A step has rejected its input.
        PipelineError: A step has failed for another reason.
    """
    root = root.resolve()
    workspace, temporary = root / "workspace", root / TEMPORARY
    for folder in (workspace, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    events = root / _EVENTS
    events.unlink(missing_ok=True)
    log = root / "pipeline.log"
    # kfp deletes its workspace after each run, so give it a folder of its own.
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root),
        workspace_root=str(workspace),
        enable_caching=cache is not None,
        cache_root=str(cache) if cache is not None else None,
    )
    watcher = StepWatcher(events, on_step)
    error: Exception | None = None
    variables = {"TMPDIR": str(temporary), progress.ENV: str(events)}
    if notes is not None:
        variables |= {RUNS: str(notes), RUN_ID: root.name}
    with PlainLog(log, watcher.on_line) as output, _environment(**variables), _restored():
        logging.getLogger().addHandler(CacheHits(output))
        logging.getLogger().setLevel(logging.INFO)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), watcher:
            try:
                pipeline(**arguments)
            # kfp raises RuntimeError if a step fails, but many other types if kfp itself fails.
            except Exception as raised:
                error = raised
            # Neither kfp nor SIGTERM stops the running step, so stop it here.
            except BaseException:
                _end(psutil.Process().children(recursive=True))
                raise
    if watcher.input_error:
        raise InputError(watcher.input_error)
    if error is not None:
        whole = f"the log is incomplete: {output.fault}" if output.fault else f"full log: {log}"
        raise PipelineError(f"{_last_error(log) or error} ({whole})") from error
    return _results(root)


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
    """Restore ``print`` and the root logger after the block, because kfp.local replaces them."""
    root = logging.getLogger()
    before = builtins.print, root.handlers[:], root.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
        try:
            yield
        finally:
            builtins.print, root.handlers[:] = before[0], before[1]
            root.setLevel(before[2])


def code_version(rooms: Sequence[str] = _CODE) -> str:
    """Return a digest of the project's code, as part of cache keys."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".sql", ".lua", ".yaml", ".j2") and path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def text_of(log: Path) -> str:
    """Read a log file. A full disk may have cut off a character, so invalid bytes are replaced."""
    return log.read_text(encoding="utf-8", errors="replace")


def remove_unfinished(root: Path) -> None:
    """Remove the outputs of unfinished steps, which may have filled the disk."""
    for step in root.glob("*/*/"):
        if step.parent.name != TEMPORARY and not (step / _RESULT).exists():
            remove(step)


def end_steps_of(root: Path) -> None:
    """Stop the steps of a killed run. Otherwise they would write to the same files as the next run."""
    events = str(root.resolve() / _EVENTS)
    left = []
    for process in psutil.process_iter():
        # Suppress the error for a process of another user.
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(progress.ENV) == events:
                left.append(process)
    _end(left)


def _end(processes: list[psutil.Process]) -> None:
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                signal(process)
        _, processes = psutil.wait_procs(processes, timeout=3)


def _last_error(log: Path) -> str:
    lines = (line.strip() for line in reversed(text_of(log).splitlines()))
    return next((line for line in lines if re.match(r"^[A-Za-z_.]*(Error|Exception|Exit)\b", line)), "")


def _results(root: Path) -> dict[str, StepResult]:
    results = {}
    for path in sorted(root.glob(f"*/*/{_RESULT}")):
        content = json.loads(path.read_text())
        artifacts = {name: output["artifacts"][0] for name, output in content.get("artifacts", {}).items()}
        results[path.parent.name] = StepResult(
            values=content.get("parameterValues", {}),
            metrics=artifacts["metrics"]["metadata"] if "metrics" in artifacts else {},
            paths={name: Path(artifact["uri"]) for name, artifact in artifacts.items()},
        )
    return results


def step_at_work(log: str) -> str:
    """Return the step that was running when the log of a run ended, or ""."""
    started = list(_STARTED.finditer(log))
    if not started or any(ended[1] == started[-1][1] for ended in _FINISHED.finditer(log, started[-1].end())):
        return ""
    return started[-1][1]


class PlainLog(io.TextIOBase):
    """A text stream that removes colour codes, writes to a file, and passes each complete line to a callback.

    If the disk is full, the error is stored in `fault`.
    """

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        # Do not buffer, because Python would repeat a failed write when it closes the file.
        self._file = path.open("wb", buffering=0)
        self._path, self._on_line, self._rest = path, on_line, ""
        self.fault: OSError | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def write(self, text: str) -> int:
        """Write text that may end in the middle of a line."""
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
    """A log handler for kfp.local's messages about cached outputs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message reports cached outputs."""
        return _CACHED.search(record.getMessage()) is not None


class StepWatcher(threading.Thread):
    """A thread that calls ``on_step`` when a step starts, makes progress or ends.

    `input_error` is the first message about invalid input.
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
        """Parse one line of kfp's output."""
        if started := _STARTED.search(text):
            self._poll()
            with self._lock:
                self._running = started[1]
            self._report(started[1], 0, 0, "")
        elif cached := _CACHED.search(text):
            self._report(cached[1], 0, 0, CACHED)
            self._report(cached[1], 1, 1, CACHED)
        elif (finished := _FINISHED.search(text)) and finished[1] == self._running:
            self._poll()
            if finished[2] != "SUCCESS":
                note_silent_end(finished[1])
            self._report(finished[1], 1, 1, "" if finished[2] == "SUCCESS" else finished[2].lower())

    def run(self) -> None:
        """Read the progress file until the `with` block ends."""
        while not self._stop_asked.wait(0.2):
            self._poll()
        self._poll()

    def _poll(self) -> None:
        with self._lock:
            events, self._offset = progress.read(self._events, self._offset)
            running = self._running
        for event in events:
            if text := event.get("input_error"):
                error = Message(str(text), str(event.get("code", "")), event.get("values"))  # type: ignore[arg-type]
                self.input_error = self.input_error or error
            else:
                # Show at most 99 % until kfp reports the end of the step, because the step must still write its
                # outputs.
                done, total = float(event["done"]), float(event["total"])  # type: ignore[arg-type]
                self._report(running, min(done, 0.99 * total), total, str(event["note"]))

    def _report(self, name: str, done: float, total: float, note: str) -> None:
        self._on_step(Step(name, traits_of(name).title), done, total, note)
