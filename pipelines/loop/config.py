"""Settings of one run of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.ingest.object_store import is_remote
from mtorl.log.dataset import SIMULATOR
from pipelines.settings import TrainingSettings
from serving.local.stack import RUNTIMES, Runtime

STAGES_BEFORE = 2
"""Stages of the experiment before its last one, in which half of the users get the challenger."""
DAYS_EACH = 2
"""Days of live traffic for the monitor, and of shifted traffic: a column that is too far away on both has moved."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(TrainingSettings):
    """Settings of one run of the loop; `budget_share` is each arm's budget, too.

    Attributes:
        data: Raw log; empty runs the simulator.
        collected: Decisions of one's own policies, as `mtorl data collect` keeps them; empty for none.
        rounds: Opportunities per user at the experiment's last stage; in a replay on average.
        concurrency: Requests in flight.
        root: Folder of the runs.
    """

    data: str = ""
    collected: str = ""
    rounds: int = 5
    concurrency: int = 16
    runtime: Runtime = "torchserve"
    root: Path = Path("runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rounds", "concurrency")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime: {self.runtime!r} is not one of {', '.join(RUNTIMES)}")

    @property
    def source(self) -> str:
        """The log as the pipeline's steps name it, which run in folders of their own."""
        if not self.data:
            return SIMULATOR
        return self.data if is_remote(self.data) else str(Path(self.data).resolve())

    @property
    def turns(self) -> int:
        """Opportunities per user: `rounds`, and one at each stage before the last one."""
        return STAGES_BEFORE + self.rounds
