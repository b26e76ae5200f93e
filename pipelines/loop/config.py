"""Settings of one run of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one run of the loop.

    Attributes:
        data: Raw log; empty runs the simulator.
        dataset: Built-in data set name or the path of its YAML.
        bad_rows: "fail" or "quarantine".
        users: Users to simulate or to keep of a real log; 0 for the default (6,000, or all).
        seed: Seed of everything random.
        epochs: Most epochs of training; early stopping may need fewer.
        rounds: Opportunities per user in the online part.
        budget_share: Budget of each arm, as a share of what always exposing would cost.
        min_lift: Lift that the gate's lower bound must exceed, in gain per opportunity.
        concurrency: Requests in flight.
        root: Folder that runs are kept in.
    """

    data: str = ""
    dataset: str = "simulator"
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7
    epochs: int = 12
    rounds: int = 5
    budget_share: float = 0.6
    min_lift: float = 0.0
    concurrency: int = 8
    root: Path = Path("runs")

    def __post_init__(self) -> None:
        if self.bad_rows not in ("fail", "quarantine"):
            raise ValueError(f"bad_rows must be 'fail' or 'quarantine', got {self.bad_rows!r}")
        for name in ("users", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("epochs", "rounds", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.budget_share <= 1:
            raise ValueError(f"budget_share must be above 0 and at most 1, got {self.budget_share}")
