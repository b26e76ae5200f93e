"""Runs a pipeline locally on a persistent folder, with the same steps and caching as on a cluster.

    volume/runs/mtorl-train.json        result of the newest run
    volume/runs/.lock                   name of the active run, or of a killed run
    volume/runs/local/...               outputs and logs of runs
    volume/runs/cache/                  kfp's cache

kfp's cache compares neither the content of files nor code, so each step has their digests as parameters.
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
"""Functions that build the pipelines, by the pipelines' names on the command line."""
_TYPES: Mapping[str, tuple[type, str]] = {
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
    "BOOLEAN": (bool, "true or false"),
}
_KEPT = 3
_LOG = "pipeline.log"


@dataclass(frozen=True)
class Ended:
    """A finished run. `cached` names the steps whose outputs were reused from earlier runs."""

    folder: Path
    cached: tuple[str, ...]
    steps: Mapping[str, local.StepResult]


def run_on(volume: Path, name: str, parameters: Mapping[str, str], on_step: OnStep) -> Ended:
    """Run a pipeline on a persistent folder, and wait until it ends.

    Args:
        name: A key of `PIPELINES`, with or without the prefix "mtorl-".
        parameters: Parameters of the pipeline, as text. The defaults are those of a cluster, but with paths below
            `volume`.

    Raises:
        InputError: The pipeline is unknown, a parameter is wrong, another run is active, or a step rejected its input.
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
            # Remove old runs first, because recording the result may need the space on a full disk.
            with contextlib.suppress(OSError):
                _prune(runs, folder)
                if is_disk_full(error):
                    local.remove_unfinished(folder)
            state, at = RunEnd.FAILED if isinstance(error, Exception) else RunEnd.CANCELLED, datetime.now(UTC)
            why = {"run": str(error)} if state == RunEnd.FAILED else {}
            _record(runs, PipelineRun(pipeline=pipeline.name, run=folder.name, state=state, at=at, why=why))
            raise
        _prune(runs, folder)
    return Ended(folder, tuple(cached), steps)


def typed(parameters: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters from text to the pipeline's types. Raises InputError if one is unknown, missing or invalid."""
    if unknown := sorted(set(parameters) - set(known)):
        raise InputError(f"no parameter {unknown[0]!r}; the pipeline has {', '.join(sorted(known))}")
    if missing := [name for name, d in known.items() if not d.get("isOptional") and name not in parameters]:
        raise InputError(f"required parameters are missing: {', '.join(missing)}")
    return {name: _typed(name, text, known[name]["parameterType"]) for name, text in parameters.items()}


def _typed(name: str, text: str, kind: str) -> Any:
    wanted, words = _TYPES.get(kind, (str, "text"))
    try:
        return TypeAdapter(wanted).validate_python(text)
    except ValidationError:
        raise InputError(f"parameter {name}: expected {words}, got {text!r}") from None


def _whole_defaults(known: Mapping[str, Any]) -> dict[str, int]:
    """Return integer defaults as integers, because kfp.local's cache does not match 7.0 with 7."""
    whole = {name: one for name, one in known.items() if one["parameterType"] == "NUMBER_INTEGER"}
    return {name: int(one["defaultValue"]) for name, one in whole.items() if "defaultValue" in one}


@contextmanager
def _alone(runs: Path, pipeline: str, folder: Path) -> Iterator[None]:
    """Lock the folder of runs during the block, and record a run that was killed before."""
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / ".lock"
    with locked(file, InputError(messages.RUN_AT_WORK(folder=runs))) as lock:
        if before := file.read_text():
            _finish_killed(runs, before)
        os.truncate(lock, 0)
        # Ignore a full disk, because the first step of the run reports it.
        with contextlib.suppress(OSError):
            os.write(lock, json.dumps({"pipeline": pipeline, "run": folder.name}).encode())
        try:
            yield
        finally:
            os.truncate(lock, 0)


def _finish_killed(runs: Path, held: str) -> None:
    try:
        killed = json.loads(held)
        pipeline, run = str(killed["pipeline"]), str(killed["run"])
    # The run was killed before its first step.
    except (ValueError, KeyError, TypeError):
        return
    local.end_steps_of(runs / "local" / run)
    log = runs / "local" / run / _LOG
    step, at = "", datetime.now(UTC)
    with contextlib.suppress(OSError):
        step, at = step_at_work(local.text_of(log)), datetime.fromtimestamp(log.stat().st_mtime, UTC)
    why = f"the run was killed, or its machine stopped, at this step: {log}" if step else "killed before its first step"
    _record(runs, PipelineRun(pipeline=pipeline, run=run, state=RunEnd.FAILED, at=at, why={step or "run": why}))


def _record(runs: Path, ended: PipelineRun) -> None:
    if any(known.run == ended.run for known in newest_runs(runs)):
        return
    # The error that has ended the run is more important than a full disk.
    with contextlib.suppress(OSError):
        ended.write(runs)


def _check_writable(volume: Path) -> None:
    if not volume.parent.is_dir():
        raise InputError(f"{volume} does not exist: mount the data volume, or name another folder with --volume")
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
    """Remove old runs with their cache entries, except those with outputs that may be reused."""
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
    return set(re.findall(rf"{re.escape(str(runs / 'local'))}/([\w-]+)/", local.text_of(path)))
