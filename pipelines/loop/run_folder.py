"""Manages a run's folder, named after the start time, and records finished stages, so that a run can resume.

    RUN/stages/begin.json       settings, and digests of the data
    RUN/stages/train.json       training, gate and online store are finished: `mtorl serve` can serve the run
    RUN/stages/rehearse.json    results of the traffic
    RUN/stages/report.json      the run is finished

Files are written atomically. If the training stage is resumed, finished steps come from KFP's cache, and an unfinished
training resumes from its checkpoint. An interrupted rehearsal starts again, because journeys can't resume halfway.
"""

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked
from pipelines import messages
from pipelines.loop.config import LoopConfig

Stage = Literal["begin", "train", "rehearse", "report"]
QUARANTINE = Path("data", "quarantine.csv")
"""File with the faulty rows of the log, in a run's folder."""
LAKE = "lake"
"""Folder of the decision log in a run's folder; the same name as in `serving.local.stack`."""
_OF_REHEARSAL = {"rounds", "runtime"}
"""Settings that may change until the rehearsal is finished."""


def new_run(root: Path) -> Path:
    """Create a folder named after the current second. If it exists, wait for the next second."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        run = root.resolve() / dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        try:
            run.mkdir()
            return run
        except FileExistsError:
            time.sleep(0.2)


def keep_only_quarantine(run: Path) -> Path | None:
    """Remove a run with invalid input, except its file of faulty rows; returns this file, or None if there is none."""
    made = next((path for path in run.glob("pipeline/*/ingest/quarantine") if path.stat().st_size), None)
    kept = run / QUARANTINE
    if made is not None:
        kept.parent.mkdir(exist_ok=True)
        made.replace(kept)
    for entry in run.iterdir():
        if made is None or entry != kept.parent:
            shutil.rmtree(entry)
    if made is not None:
        return kept
    run.rmdir()
    return None


def set_aside(run: Path) -> None:
    """Move the state of an interrupted rehearsal to a folder such as ``interrupted-20261130-161500``.

    The state is not deleted, because its log and ledger may contain decisions of real users from `mtorl serve`.
    """
    kept = run / f"interrupted-{dt.datetime.now():%Y%m%d-%H%M%S}"
    for path in (run / "serving", run / LAKE, run / "serving.yaml", *(run / "features").glob("online.db*")):
        if path.exists():
            kept.mkdir(exist_ok=True)
            path.replace(kept / path.name)


def point_latest(root: Path, run: Path) -> None:
    """Point the symlink ``<root>/latest`` to a run, atomically."""
    temporary = root / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(root / "latest")


def begin(run: Path, config: LoopConfig) -> None:
    """Record the settings of a run and the digests of its data. Raises InputError if the log does not exist."""
    finish(run, "begin", {"settings": _settings(config), "data": _digests(config)})


def finish(run: Path, stage: Stage, left: Mapping[str, Any]) -> None:
    """Record a stage as finished, with the outputs `left` for the next stages."""
    with replacing(_file(run, stage), durable=True) as unfinished:
        unfinished.write_text(json.dumps(left))


def outputs_of(run: Path, stage: Stage) -> dict[str, Any] | None:
    """Return the outputs of a stage; None if the stage is not finished."""
    path = _file(run, stage)
    return json.loads(path.read_text()) if path.exists() else None


def can_be_served(run: Path) -> bool:
    """Return whether a run's training, online store and experiment are complete."""
    return _file(run, "train").exists()


def to_resume(root: Path, asked: Mapping[str, Any]) -> tuple[Path, LoopConfig]:
    """Find the newest run, and the settings for resuming it.

    Settings in `asked` must equal those of the run, except settings of stages that are not finished. Raises InputError
    if there is no run to resume, or settings or data of a finished stage have changed.
    """
    runs = sorted(folder for folder in root.glob("*") if not folder.is_symlink() and _file(folder, "begin").exists())
    if not runs:
        raise InputError(messages.NO_RUN(root=root))
    run = runs[-1].resolve()
    if _file(run, "report").exists():
        raise InputError(messages.RUN_FINISHED(run=run))
    begun = outputs_of(run, "begin") or {}
    settings = begun["settings"]
    free = set() if _file(run, "rehearse").exists() else _OF_REHEARSAL
    differences = [
        f"--{name.replace('_', '-')} was {settings[name]!r} and is now {value!r}"
        for name, value in asked.items()
        if value != settings[name] and name not in free
    ]
    config = LoopConfig(**{**settings, **asked}, root=root)
    if not differences:
        now = _digests(config)
        differences = [f"{name} has changed" for name, digest in begun["data"].items() if digest != now[name]]
    if differences:
        raise InputError(messages.RUN_DIFFERS(run=run, changes="; ".join(differences)))
    return run, config


@contextmanager
def at_work(run: Path, shared: bool = False) -> Iterator[None]:
    """Lock a run's folder, with `shared` only against writers; raises InputError if another process has locked it."""
    path = run / "stages" / ".lock"
    path.parent.mkdir(exist_ok=True)
    busy = InputError(f"{run}: a run or a server is at work there; wait for it, or stop it")
    with locked(path, busy, shared=shared):
        yield


def _file(run: Path, stage: Stage) -> Path:
    return run / "stages" / f"{stage}.json"


def _settings(config: LoopConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name != "root"}


def _digests(config: LoopConfig) -> dict[str, str]:
    """Return digests of a training's inputs, by a description of each input."""
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.log.lake import Lake

    found = {f"the data of {config.data or config.dataset}": content_of(RawLog.named(config.source, config.dataset))}
    if config.own_decisions:
        found[f"the decisions of {config.own_decisions}"] = Lake.open(config.own_decisions).snapshot()
    return found
