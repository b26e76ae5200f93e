"""Stores the newest run of each pipeline in a small file: its result, the reason, and the time of the last success.

    PipelineRun.ended("mtorl-train", RunEnd.FAILED, {"ingest": "no such file"}, "", now).write(runs)
    for run in newest_runs(runs): ...

The last step of each pipeline writes the file (components/notify), and the monitor's exporter reads it.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from mtorl.runtime.files import replacing
from mtorl.runtime.step import run_id

_GAPS = 10  # number of newest gaps between successes that estimate the usual interval
_BLOCK = 4096  # least number of bytes that a small file occupies on a disk
_APART = timedelta(hours=12)
"""Least time between successes that count: several manual runs on one afternoon count once."""


class RunEnd(StrEnum):
    """Result of a run; a cancelled run is neither a success nor a failure of the pipeline."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class PipelineRun(BaseModel):
    """The newest run of a pipeline that has ended."""

    model_config = ConfigDict(extra="ignore")  # ignore fields that a newer release has added

    pipeline: str  # its name
    run: str = ""  # id of the run
    state: RunEnd
    at: AwareDatetime  # when it ended
    why: dict[str, str] = {}
    """Messages of the steps, by step, of a failed run. A cancelled run keeps the messages of the run before it."""
    succeeded: AwareDatetime | None = None  # when a run last succeeded
    failed_in_a_row: int = 0  # number of runs that have failed since then
    successes: list[AwareDatetime] = []  # times of successes at least twelve hours apart, the newest last

    @classmethod
    def ended(cls, pipeline: str, state: RunEnd, why: Mapping[str, str], otherwise: str, at: datetime) -> PipelineRun:
        """A run that has just ended; `otherwise` is the reason if no step has noted a reason, as when out of memory."""
        reasons = dict(why) or {"run": otherwise or "no step said why: its pod was killed, or never started"}
        run = run_id()
        return cls(pipeline=pipeline, run=run, state=state, at=at, why=reasons if state == RunEnd.FAILED else {})

    @property
    def failed(self) -> bool:
        """Whether the run failed."""
        return self.state == RunEnd.FAILED

    @property
    def usual_interval(self) -> timedelta | None:
        """The longest usual time between two successes; None: there were too few successes.

        This is the second largest of the last gaps. It thus ignores a single outage, but includes weekends without
        runs, which occur at least twice among the gaps.
        """
        if len(self.successes) <= _GAPS:
            return None
        gaps = [later - earlier for earlier, later in itertools.pairwise(self.successes)]
        return sorted(gaps)[-2]

    def write(self, runs: Path) -> None:
        """Store the run as the newest of its pipeline; a second write by a retried step counts once."""
        path = runs / f"{self.pipeline}.json"
        before = _read(path)
        known, retried = before or self, before is not None and bool(self.run) and before.run == self.run
        more: dict[str, object] = {name: getattr(known, name) for name in ("succeeded", "successes", "failed_in_a_row")}
        if self.state == RunEnd.SUCCEEDED:
            apart = not known.successes or self.at - known.successes[-1] >= _APART
            successes = [*known.successes, self.at] if apart else known.successes
            more = {"succeeded": self.at, "successes": successes[-_GAPS - 1 :], "failed_in_a_row": 0}
        elif self.failed:
            more["failed_in_a_row"] = max(1, known.failed_in_a_row + (not retried))
        else:
            more["why"] = known.why
        runs.mkdir(parents=True, exist_ok=True)
        now = self.model_copy(update=more)
        try:
            with replacing(path, durable=True) as unfinished:
                unfinished.write_text(now.model_dump_json(indent=2))
        except OSError as error:
            if error.errno != errno.ENOSPC or not path.exists():
                raise
            now._overwrite(path)

    def _overwrite(self, path: Path) -> None:
        """Overwrite the file within its present blocks, since a full disk has no room for another file.

        This is not atomic: a reader ignores a partly written file.
        """
        room = max(path.stat().st_size, _BLOCK)
        shorter = self
        while len(content := shorter.model_dump_json().encode()) > room and any(shorter.why.values()):
            shorter = shorter.model_copy(
                update={"why": {step: why[: len(why) // 2] for step, why in shorter.why.items()}}
            )
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
            os.fsync(file.fileno())

    def __str__(self) -> str:
        reasons = [f"{step}: {reason}" for step, reason in self.why.items()]
        return "; ".join([f"{self.pipeline} {self.state}", *reasons])


def newest_runs(runs: Path) -> list[PipelineRun]:
    """Returns the newest run of each pipeline, without files that can't be read."""
    return [run for path in sorted(runs.glob("[!.]*.json")) if (run := _read(path)) is not None]


def _read(path: Path) -> PipelineRun | None:
    try:
        return PipelineRun.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
