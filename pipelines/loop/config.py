"""Settings of one run of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class LoopConfig(TrainingSettings):
    """Settings of one run of the loop; `budget_share` is each arm's budget, too.

    Attributes:
        data: Raw log; empty runs the simulator.
        collected: Decisions of one's own policies, as `mtorl data collect` keeps them; empty for none.
        rounds: Opportunities per user in the online part; in a replay on average.
        concurrency: Requests in flight.
        root: Folder that runs are kept in.
    """

    data: str = ""
    collected: str = ""
    rounds: int = 5
    concurrency: int = 8
    root: Path = Path("runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rounds", "concurrency")
