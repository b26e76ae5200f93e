"""Stores the result of each pipeline's newest run in a small file, so that the monitor can report failed pipelines."""

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

# The usual interval is estimated from this many intervals.
_GAPS = 10
# A file system allocates at least a block of this many bytes for each file.
_BLOCK = 4096
_APART = timedelta(hours=12)
"""Smallest time between two successful runs that count separately, so that several manual runs on one afternoon count
once."""


class RunEnd(StrEnum):
    """The result of a run. A cancelled run is neither a success nor a failure."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class PipelineRun(BaseModel):
    """The newest finished run of a pipeline, and what is known about the runs before it.

    Attributes:
        pipeline: Name of the pipeline.
        run: Id of the run.
        at: Time at which the run ended.
        succeeded: Time at which a run last succeeded.
        failed_in_a_row: Number of failed runs since the last success.
        successes: Times of the last successes, the newest last. Of several successes within twelve hours, only the
            first is in the list.
    """

    # Ignore fields that a newer release may have written.
    model_config = ConfigDict(extra="ignore")

    pipeline: str
    run: str = ""
    state: RunEnd
    at: AwareDatetime
    why: dict[str, str] = {}
    """Messages of the steps of a failed run, by step. If the newest run was cancelled, these are the messages of the
    run before it."""
    succeeded: AwareDatetime | None = None
    failed_in_a_row: int = 0
    successes: list[AwareDatetime] = []

    @classmethod
    def ended(cls, pipeline: str, state: RunEnd, why: Mapping[str, str], otherwise: str, at: datetime) -> PipelineRun:
        """Create the record of a run that has just ended.

        Args:
            otherwise: Reason for a failure without a message in `why`, for example a lack of memory.
        """
        reasons = dict(why) or {"run": otherwise or "no step said why: its pod was killed, or never started"}
        run = run_id()
        return cls(pipeline=pipeline, run=run, state=state, at=at, why=reasons if state == RunEnd.FAILED else {})

    @property
    def failed(self) -> bool:
        """Whether the run failed."""
        return self.state == RunEnd.FAILED

    @property
    def usual_interval(self) -> timedelta | None:
        """Return the longest usual time between two successes; None if there were too few successes.

        The longest of the last ten intervals is ignored, because it may be an outage.
        """
        if len(self.successes) <= _GAPS:
            return None
        gaps = [later - earlier for earlier, later in itertools.pairwise(self.successes)]
        return sorted(gaps)[-2]

    def write(self, runs: Path) -> None:
        """Write this run to its pipeline's file. A retried step may write the same run again."""
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
        """Overwrite the file in place, because a full disk has no space for a second file.

        Long messages are shortened, so that the file does not grow.
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
    """Read the newest run of each pipeline. Unreadable files are skipped."""
    return [run for path in sorted(runs.glob("[!.]*.json")) if (run := _read(path)) is not None]


def _read(path: Path) -> PipelineRun | None:
    try:
        return PipelineRun.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
