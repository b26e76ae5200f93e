"""Settings of a model's training that the loop on a laptop and the first installation have in common."""

from __future__ import annotations

from dataclasses import dataclass

from mtorl.log.dataset import SIMULATOR


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings from the log to the gate.

    Attributes:
        dataset: Name of a built-in data set description, or the path of a YAML.
        bad_rows: "fail" stops at a log with faulty rows, "quarantine" goes on without them.
        users: Users to simulate (0 for 6,000), or the most to keep of a log (0 keeps all).
        epochs: The most; early stopping may need fewer.
        budget_share: Budget as a share of what always exposing would cost; sets the price of the budget.
        min_lift: Lift per opportunity that the gate's lower bound must exceed.

    Raises:
        ValueError: A setting is out of its range.
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
