"""Settings of a training, also of the first installation, and of one run of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.ingest.object_store import is_remote
from mtorl.log.dataset import SIMULATOR
from serving.local.stack import RUNTIMES, Runtime

STAGES_BEFORE = 2
"""Stages of the experiment before its last one, in which half of the users get the challenger."""
DAYS_EACH = 2
"""Days of live traffic for the monitor, and of shifted traffic: a column that is too far away on both has moved."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings from the log to the gate. ValueError: one is out of its range.

    Attributes:
        dataset: Name of a built-in data set description, or the path of a YAML.
        bad_rows: "fail" stops at a log with faulty rows, "quarantine" goes on without them.
        users: Users to simulate (0 for 6,000), or the most to keep of a log (0 keeps all).
        epochs: The most; early stopping may need fewer.
        budget_share: Budget as a share of what always exposing would cost; sets the price of the budget.
        min_lift: Lift per opportunity that the gate's lower bound must exceed.
    """

    dataset: str = SIMULATOR
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7
    epochs: int = 12
    budget_share: float = 0.6
    min_lift: float = 0.0

    def __post_init__(self) -> None:
        if self.bad_rows not in ("fail", "quarantine"):
            raise ValueError(f"bad_rows must be 'fail' or 'quarantine', got {self.bad_rows!r}")
        for name in ("users", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        self.check_positive("epochs")
        if not 0 < self.budget_share <= 1:
            raise ValueError(f"budget_share must be above 0 and at most 1, got {self.budget_share}")

    def check_positive(self, *names: str) -> None:
        """Refuse settings below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(TrainingSettings):
    """Settings of one run of the loop; `budget_share` is each arm's budget, too.

    Attributes:
        data: Raw log; empty runs the simulator.
        own_decisions: Lake whose decisions are added to the log; empty for none.
        rounds: Opportunities per user at the experiment's last stage; in a replay on average.
    """

    data: str = ""
    own_decisions: str = ""
    rounds: int = 5
    runtime: Runtime = "torchserve"
    root: Path = Path("runs")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("rounds")
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
