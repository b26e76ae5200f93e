"""Run a pipeline on this machine through kfp.local, with progress and a log, and give back what it produced.

kfp.local prints everything, leaks temporary folders, names the run's folder itself and raises exceptions that hide the
cause. This wrapper gives each run its own root, keeps the output in ``<root>/pipeline.log`` and reads the results from
the ``executor_output.json`` that every step leaves.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kfp import local

from mtorl.runtime import progress, run_notes
from mtorl.runtime.files import remove
from pipelines.runner_output import CacheHits, PlainLog, StepWatcher
from pipelines.steps import OnStep

TEMPORARY = "tmp"
"""Folder below that of a run with the temporary files of its steps."""


_RESULT = "executor_output.json"  # of a step, at its end
_EVENTS = "progress.jsonl"
_CODE = ("mtorl", "features", "serving", "monitoring", "components")


class PipelineError(RuntimeError):
    """A step failed; the message holds its last error line and the path of the log."""


class InputError(ValueError):
    """A step could not use what the user gave it; the message is meant for the user."""


@dataclass(frozen=True)
class StepResult:
    """What one step left behind.

    Attributes:
        values: Output parameters by name; a component's only return value is called "Output".
        metrics: What it logged to its output `metrics`.
        paths: Paths of the output artifacts by name.
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
    """Run a pipeline and wait for it.

    Args:
        pipeline: A function decorated with ``dsl.pipeline``.
        arguments: Its parameters.
        root: Folder for the run's outputs and log. In that of an earlier run, steps that the cache answers have their
            results from there.
        on_step: Told about every start, advance and end of a step.
        cache: Folder that says which outputs of earlier runs answer which inputs; None: every step is done.
        notes: Folder of `mtorl.runtime.run_notes`; None: nothing is noted.

    Returns:
        Results by step name, of the steps that were done in this folder.

    Raises:
        InputError: A step refused the user's input.
        PipelineError: A step failed.
    """
    root = root.resolve()
    workspace, temporary = root / "workspace", root / TEMPORARY
    for folder in (workspace, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    events = root / _EVENTS
    events.unlink(missing_ok=True)
    log = root / "pipeline.log"
    # kfp deletes the workspace it is given after every run: it must be a fresh folder of ours, never the user's.
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
        variables |= {run_notes.RUNS: str(notes), run_notes.RUN_ID: root.name}
    with PlainLog(log, watcher.on_line) as output, _environment(**variables), _restored():
        logging.getLogger().addHandler(CacheHits(output))
        logging.getLogger().setLevel(logging.INFO)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), watcher:
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
        whole = f"its log could not be written whole: {output.fault}" if output.fault else f"whole log: {log}"
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


def code_version() -> str:
    """A digest of the project's own code: without it, a step would be answered by what other code has made."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in _CODE:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".sql", ".lua", ".yaml", ".j2") and path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def text_of(log: Path) -> str:
    """What was printed. A full disk, or a power failure, may have cut it off inside a character.

    Args:
        log: Of a run.
    """
    return log.read_text(encoding="utf-8", errors="replace")


def remove_unfinished(root: Path) -> None:
    """Remove the outputs of steps that have not ended: nothing uses them, and they may be what has filled the disk.

    Args:
        root: Folder of a run.
    """
    for step in root.glob("*/*/"):
        if step.parent.name != TEMPORARY and not (step / _RESULT).exists():
            remove(step)


def end_steps_of(root: Path) -> None:
    """Stop what a run that was killed has left at work: its steps outlive it, and would write beside the next run's.

    Args:
        root: Its folder.
    """
    events = str(root.resolve() / _EVENTS)
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # somebody else's
            if process.pid != os.getpid() and process.environ().get(progress.ENV) == events:
                left.append(process)
    _end(left)


def _end_children() -> None:
    """Stop the running step and what it has started; a terminal's Ctrl-C reaches them, a SIGTERM to us does not."""
    _end(psutil.Process().children(recursive=True))


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
