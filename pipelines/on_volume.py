"""Runs a pipeline on this machine, on a folder that outlives its runs: same steps and same caching as on a cluster.

    ended = run_on(Path("volume"), "train", {"source": "log.csv", "dataset": "my-log.yaml"}, on_step)

    volume/runs/mtorl-train.json        end of its newest run
    volume/runs/.lock                   the run in progress; after a kill, the killed one
    volume/runs/local/...               outputs and log of the newest runs, and of those whose outputs they use
    volume/runs/cache/                  outputs by their inputs

A step's outputs are reused if the log's content, all settings and the project's code are unchanged: kfp's cache knows
neither the content nor the code, so both are parameters of the steps. Runs exclude each other.

The last step records the end of a run (components/notify). If it can't, the run itself does or, after a kill, the next
run: a failed run must never look like yesterday's success.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from monitoring.pipeline_runs import PipelineRun, RunEnd, newest_runs
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import is_disk_full, remove
from mtorl.runtime.locks import locked
from pipelines import bootstrap, local, messages, monitoring, training
from pipelines.local import CACHED, step_at_work
from pipelines.profile import LAPTOP, Profile
from pipelines.steps import OnStep, Step

PIPELINES: Mapping[str, Callable[[Profile], Any]] = {
    "bootstrap": bootstrap.build,
    "train": training.build,
    "retrain": training.build_retrain,
    "monitor": monitoring.build,
}
"""The pipelines by the name that people type."""
_TYPES: Mapping[str, tuple[type, str]] = {
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
    "BOOLEAN": (bool, "true or false"),
}
_KEPT = 3  # newest runs
_LOG = "pipeline.log"


@dataclass(frozen=True)
class Ended:
    """A run that came to its end: its folder, the steps that were answered from earlier runs, results of the others."""

    folder: Path
    cached: tuple[str, ...]
    steps: Mapping[str, local.StepResult]


def run_on(volume: Path, name: str, parameters: Mapping[str, str], on_step: OnStep) -> Ended:
    """Run a pipeline on a folder and wait for it.

    Args:
        name: See `PIPELINES`; with or without "mtorl-".
        parameters: As text. Those with a default on a cluster have the same here, below the folder.

    Raises:
        InputError: No such pipeline; a wrong parameter; another run in progress; or a step refused the input.
        PipelineError: A step failed.
    """
    from google.protobuf.json_format import MessageToDict

    build = PIPELINES.get(name.removeprefix("mtorl-"))
    if build is None:
        raise InputError(f"no pipeline {name!r}; there are {', '.join(PIPELINES)}")
    volume = volume.resolve()
    _check_writable(volume)
    pipeline = build(replace(LAPTOP, folder=str(volume)))
    known = MessageToDict(pipeline.pipeline_spec)["root"].get("inputDefinitions", {}).get("parameters", {})
    arguments = {**_whole_defaults(known), **typed(parameters, known)}
    if "code_version" in known:
        arguments["code_version"] = parameters.get("code_version") or local.code_version()
    runs = volume / "runs"
    folder = runs / "local" / f"{pipeline.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    with _alone(runs, pipeline.name, folder):
        cached: list[str] = []

        def watch(step: Step, done: float, total: float, note: str) -> None:
            if note == CACHED and done:
                cached.append(step.name)
            on_step(step, done, total, note)

        try:
            steps = local.run(pipeline, arguments, folder, watch, cache=runs / "cache", notes=runs)
        except BaseException as error:
            with contextlib.suppress(OSError):  # first: on a full disk this makes room for the note on the end
                _prune(runs, folder)
                if is_disk_full(error):
                    local.remove_unfinished(folder)
            state, at = RunEnd.FAILED if isinstance(error, Exception) else RunEnd.CANCELLED, datetime.now(UTC)
            why = {"run": str(error)} if state == RunEnd.FAILED else {}
            _tell(runs, PipelineRun(pipeline=pipeline.name, run=folder.name, state=state, at=at, why=why))
            raise
        _prune(runs, folder)
    return Ended(folder, tuple(cached), steps)


def typed(parameters: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in their own types. InputError: one is unknown, missing, or not of its type."""
    if unknown := sorted(set(parameters) - set(known)):
        raise InputError(f"no parameter {unknown[0]!r}; the pipeline has {', '.join(sorted(known))}")
    if missing := [name for name, d in known.items() if not d.get("isOptional") and name not in parameters]:
        raise InputError(f"parameters that this pipeline can't do without: {', '.join(missing)}")
    return {name: _typed(name, text, known[name]["parameterType"]) for name, text in parameters.items()}


def _typed(name: str, text: str, kind: str) -> Any:
    wanted, words = _TYPES.get(kind, (str, "text"))
    try:
        return TypeAdapter(wanted).validate_python(text)
    except ValidationError:
        raise InputError(f"parameter {name}: expected {words}, got {text!r}") from None


def _whole_defaults(known: Mapping[str, Any]) -> dict[str, int]:
    """Defaults of whole numbers: kfp.local makes 7.0 of them, which is another key of its cache than 7."""
    whole = {name: one for name, one in known.items() if one["parameterType"] == "NUMBER_INTEGER"}
    return {name: int(one["defaultValue"]) for name, one in whole.items() if "defaultValue" in one}


@contextmanager
def _alone(runs: Path, pipeline: str, folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which names the run until the end of the block; after a kill, the name stays."""
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / ".lock"
    with locked(file, InputError(messages.RUN_AT_WORK(folder=runs))) as lock:
        if before := file.read_text():
            _finish_killed(runs, before)
        os.truncate(lock, 0)
        with contextlib.suppress(OSError):  # a full disk, which the run itself says, and tells
            os.write(lock, json.dumps({"pipeline": pipeline, "run": folder.name}).encode())
        try:
            yield
        finally:
            os.truncate(lock, 0)


def _finish_killed(runs: Path, held: str) -> None:
    """Note that a killed run failed, and end the step that it may have left running."""
    try:
        killed = json.loads(held)
        pipeline, run = str(killed["pipeline"]), str(killed["run"])
    except (ValueError, KeyError, TypeError):  # killed while it wrote this: it had not begun
        return
    local.end_steps_of(runs / "local" / run)
    log = runs / "local" / run / _LOG
    step, at = "", datetime.now(UTC)
    with contextlib.suppress(OSError):
        step, at = step_at_work(local.text_of(log)), datetime.fromtimestamp(log.stat().st_mtime, UTC)
    why = f"killed at this step, or its machine was: {log}" if step else "killed before its first step"
    _tell(runs, PipelineRun(pipeline=pipeline, run=run, state=RunEnd.FAILED, at=at, why={step or "run": why}))


def _tell(runs: Path, ended: PipelineRun) -> None:
    """Keep how a run ended, unless its own last step has done so."""
    if any(known.run == ended.run for known in newest_runs(runs)):
        return
    with contextlib.suppress(OSError):  # a full disk: the reason of the end itself is what people must see
        ended.write(runs)


def _check_writable(volume: Path) -> None:
    """Name the owner of a folder that can't be written: a step's error does not tell what a volume lacks."""
    if not volume.parent.is_dir():
        raise InputError(f"{volume} is not there: mount the data volume, or name its folder: --volume")
    for path in (volume, volume / "runs", volume / "registry", volume / "features"):
        if not path.exists() or os.access(path, os.W_OK | os.X_OK):
            continue
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise InputError(f"{path} is mounted read-only: pipelines write to it")
        owner = path.stat()
        raise InputError(
            f"{path} can't be written by user {os.getuid()} in group {os.getgid()}: it belongs to "
            f"{owner.st_uid}:{owner.st_gid}, mode {stat.S_IMODE(owner.st_mode):o}. A volume to which Kubernetes does "
            "not apply fsGroup, such as NFS, must belong to 10001:10001, with mode 2775 (docs/cluster.md)"
        )


def _prune(runs: Path, newest: Path) -> None:
    """Remove old runs and their cache keys, but not what the newest run has read, nor what the next one may.

    A run that fails at its first steps makes nothing: three such nights must not remove the training of the night
    before, which has yet to be evaluated.
    """
    folders = sorted((runs / "local").glob("*"), key=lambda folder: folder.name.split("-", 2)[-1])
    log = newest / _LOG
    entries = {entry: _runs_named_in(entry, runs) for entry in (runs / "cache").glob("*.json")}
    answering = set[str]().union(*entries.values())
    kept = {folder.name for folder in folders[-_KEPT:]} | (_runs_named_in(log, runs) if log.exists() else set())
    kept |= {folder.name for folder in [one for one in folders if one.name in answering][-_KEPT:]}
    for folder in folders:
        remove(folder if folder.name not in kept else folder / local.TEMPORARY)
    for entry, made_in in entries.items():
        if made_in and not made_in <= kept:
            entry.unlink(missing_ok=True)


def _runs_named_in(path: Path, runs: Path) -> set[str]:
    """Runs whose folders a file names."""
    return set(re.findall(rf"{re.escape(str(runs / 'local'))}/([\w-]+)/", local.text_of(path)))
