"""Settings of one run of the loop."""

from dataclasses import dataclass
from pathlib import Path

from mtorl.log.dataset import SIMULATOR
from mtorl.log.sources import is_remote
from mtorl.policy.exploration import EXPLORE
from serving.local.stack import Runtime

STAGES_BEFORE = 2
"""Number of the experiment's stages before the last one. At the last stage, half of the users get the challenger."""
DAYS_EACH = 2
"""Days of live traffic, and of shifted traffic. The monitor needs two days to detect drift of a column."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of one run of the loop; the command checks their ranges.

    Attributes:
        data: Raw log; empty: the simulator.
        dataset: Name of a built-in data set description, or the path of a YAML file.
        own_decisions: Lake whose decisions are added to the log; empty if there are none.
        bad_rows: "fail" stops if a row is faulty; "quarantine" moves faulty rows to a side file and continues.
        users: Users to simulate (0: 6,000), or the maximum number to keep from a log (0: all).
        epochs: Maximum epochs; early stopping may need fewer.
        budget_share: Budget of each arm as a share of the cost of exposing always; sets the price of the budget.
        min_lift: Lift per opportunity that the gate's lower bound must exceed.
        rounds: Opportunities per user at the experiment's last stage; in a replay, the average.
        explore: Share of both arms' decisions made at random. A replay ignores it, because a replay yields no new data.
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
        """The log as an absolute path, URI or data set name, because steps run in other working folders."""
        if not self.data:
            return SIMULATOR
        return self.data if is_remote(self.data) else str(Path(self.data).resolve())

    @property
    def turns(self) -> int:
        """Opportunities per user: `rounds` at the last stage, and one at each earlier stage."""
        return STAGES_BEFORE + self.rounds
