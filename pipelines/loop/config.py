"""Settings of one run of the loop."""

from dataclasses import dataclass
from pathlib import Path

from mtorl.log.dataset import SIMULATOR
from mtorl.log.sources import is_remote
from mtorl.policy.exploration import EXPLORE
from serving.local.stack import Runtime

STAGES_BEFORE = 2
"""Stages of the experiment before its last one, in which half of the users get the challenger."""
DAYS_EACH = 2
"""Days of live traffic for the monitor, and of shifted traffic: a column that is too far away on both has moved."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of one run of the loop; the command checks their ranges.

    Attributes:
        data: Raw log; empty runs the simulator.
        dataset: Name of a built-in data set description, or the path of a YAML.
        own_decisions: Lake whose decisions are added to the log; empty for none.
        bad_rows: "fail" stops at a log with faulty rows, "quarantine" goes on without them.
        users: Users to simulate (0 for 6,000), or the most to keep of a log (0 keeps all).
        epochs: The most; early stopping may need fewer.
        budget_share: Budget of each arm as a share of what always exposing would cost; sets the price of the budget.
        min_lift: Lift per opportunity that the gate's lower bound must exceed.
        rounds: Opportunities per user at the experiment's last stage; in a replay on average.
        explore: Share of the decisions that both arms leave to chance. A replay, which teaches nothing new, has none.
    """

    data: str = ""
    dataset: str = SIMULATOR
    own_decisions: str = ""
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7
    epochs: int = 12
    budget_share: float = 0.6
    min_lift: float = 0.0
    rounds: int = 5
    explore: float = EXPLORE
    runtime: Runtime = "torchserve"
    root: Path = Path("runs")

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
