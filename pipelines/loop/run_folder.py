"""Manages the folder of a run, and records which stages are finished, so that an interrupted run can resume.

    RUN/stages/begin.json       settings, and digests of the data
    RUN/stages/train.json       models for `mtorl serve` are complete
    RUN/stages/rehearse.json    results of the traffic
    RUN/stages/report.json      the run is finished

Interrupted traffic is repeated from the start, because users can't continue in the middle of their journeys.
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
"""File in a run's folder with the faulty rows of the log."""
LAKE = "lake"
"""Name of the folder, in a run's folder, with the decision log. `serving.local.stack` uses the same name."""
_OF_REHEARSAL = {"rounds", "runtime"}
"""Settings that may be changed as long as the rehearsal has not finished."""


def new_run(root: Path) -> Path:
    """Create a folder that is named after the current second."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        run = root.resolve() / dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        try:
            run.mkdir()
            return run
        except FileExistsError:
            time.sleep(0.2)


def keep_only_quarantine(run: Path) -> Path | None:
    """Remove the folder of a run with invalid input, except its file of faulty rows, and return this file's path."""
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
    """Move the state of interrupted traffic to a folder such as ``interrupted-20261130-161500``.

    The state is not deleted, because `mtorl serve` may have added decisions about real users.
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
    """Record the settings of a run, and digests of its data. Raises InputError if the log does not exist."""
    finish(run, "begin", {"settings": _settings(config), "data": _digests(config)})


def finish(run: Path, stage: Stage, left: Mapping[str, Any]) -> None:
    """Record that a stage is finished, with the outputs `left` for later stages."""
    with replacing(_file(run, stage), durable=True) as unfinished:
        unfinished.write_text(json.dumps(left))


def outputs_of(run: Path, stage: Stage) -> dict[str, Any] | None:
    """Read the recorded outputs of a stage; None if the stage is not finished."""
    path = _file(run, stage)
    return json.loads(path.read_text()) if path.exists() else None


def can_be_served(run: Path) -> bool:
    """Return whether a run's models, online store and experiment are complete."""
    return _file(run, "train").exists()


def to_resume(root: Path, asked: Mapping[str, Any]) -> tuple[Path, LoopConfig]:
    """Find the newest run, and the settings with which it can resume.

    Args:
        asked: Settings that the user gave. Settings of a finished stage may not change.

    Raises:
        InputError: There is no run to resume, or settings or data of a finished stage have changed.
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
    """Lock the folder of a run during the block. Raises InputError if another process has locked it.

    Args:
        shared: Whether other processes with a shared lock may use the folder at the same time.
    """
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
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.log.lake import Lake

    found = {f"the data of {config.data or config.dataset}": content_of(RawLog.named(config.source, config.dataset))}
    if config.own_decisions:
        found[f"the decisions of {config.own_decisions}"] = Lake.open(config.own_decisions).snapshot()
    return found
