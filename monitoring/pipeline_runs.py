"""The newest run of each pipeline, in one small file each: how it ended, why, and when one last succeeded.

    PipelineRun.ended("mtorl-train", "FAILED", {"ingest": "no such file"}, "", now).write(runs)
    for run in newest_runs(runs): ...

The last step of each pipeline writes it (components/notify), the monitor's exporter tells Prometheus, and an alert
tells people: there is one way to them, which groups and sends once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from mtorl.runtime import run_notes
from mtorl.runtime.files import replacing

_SUCCEEDED = "SUCCEEDED"
_NO_FAULT = (_SUCCEEDED, "CANCELLED")  # by a person


class PipelineRun(BaseModel):
    """The newest run of a pipeline that has ended."""

    model_config = ConfigDict(extra="ignore")  # of a newer release

    pipeline: str
    """Its name."""
    run: str = ""
    """Id of the run."""
    state: str
    """SUCCEEDED, FAILED or CANCELLED."""
    at: AwareDatetime
    """When it ended."""
    why: dict[str, str] = {}
    """Of a failed one: what steps said, by step."""
    succeeded: AwareDatetime | None = None
    """When a run last succeeded."""
    failed_in_a_row: int = 0
    """Runs that have failed since then."""

    @classmethod
    def ended(
        cls, pipeline: str, state: str, why: Mapping[str, str], otherwise: str | None, at: datetime
    ) -> PipelineRun:
        """A run that has just ended.

        Args:
            pipeline: Its name.
            state: As KFP says it.
            why: What its steps have noted.
            otherwise: What KFP says, for when no step has noted anything: as when it ran out of memory.
            at: Now.
        """
        reasons = dict(why) or {"run": otherwise or "no step said why: its pod was killed, or never started"}
        run = run_notes.run_id()
        return cls(pipeline=pipeline, run=run, state=state, at=at, why={} if state in _NO_FAULT else reasons)

    @property
    def failed(self) -> bool:
        """Whether it did not reach its end, though nobody cancelled it."""
        return self.state not in _NO_FAULT

    def write(self, runs: Path) -> None:
        """Keep it as the newest run of its pipeline.

        Args:
            runs: Folder with a file for each pipeline.
        """
        path = runs / f"{self.pipeline}.json"
        before = _read(path)
        succeeded = self.at if self.state == _SUCCEEDED else before.succeeded if before else None
        in_a_row = (before.failed_in_a_row if before else 0) + 1 if self.failed else 0
        runs.mkdir(parents=True, exist_ok=True)
        now = self.model_copy(update={"succeeded": succeeded, "failed_in_a_row": in_a_row})
        with replacing(path, durable=True) as unfinished:
            unfinished.write_text(now.model_dump_json(indent=2))

    def __str__(self) -> str:
        reasons = [f"{step}: {reason}" for step, reason in self.why.items()]
        return "; ".join([f"{self.pipeline} {self.state}", *reasons])


def newest_runs(runs: Path) -> list[PipelineRun]:
    """The newest run of each pipeline; one whose file can't be read is left out.

    Args:
        runs: Folder with a file for each; it may not be there.
    """
    return [run for path in sorted(runs.glob("[!.]*.json")) if (run := _read(path)) is not None]


def _read(path: Path) -> PipelineRun | None:
    try:
        return PipelineRun.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
