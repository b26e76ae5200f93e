"""Defines the settings of one run of `mtorl run`."""

from dataclasses import dataclass
from pathlib import Path

from mtorl.log.dataset import SIMULATOR
from mtorl.log.sources import is_remote
from mtorl.policy.exploration import EXPLORE
from serving.local.stack import Runtime

STAGES_BEFORE = 2
"""Number of stages before the experiment's last stage. At the last stage, half of the users get the challenger."""
DAYS_EACH = 2
"""Number of days of live traffic, and then of shifted traffic. The monitor detects drift of a column only after two
days."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of one run. The command line checks that they are in their ranges.

    Attributes:
        data: Path or URI of a raw log. If empty, a log is simulated.
        dataset: Name of a built-in data set description, or the path of a YAML file.
        own_decisions: Lake whose decisions are added to the log. If empty, none are added.
        bad_rows: "fail" or "quarantine", which sets faulty rows aside.
        users: Number of users to simulate (0 for 6,000), or to keep from a log (0 for all).
        budget_share: Budget of each arm, as a share of the cost of showing an ad at every opportunity.
        min_lift: Lift per opportunity that the gate's lower bound must exceed.
        rounds: Opportunities per user at the last stage. In a replay, this is an average.
        explore: Share of random decisions in both arms. Ignored in a replay.
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
        """Return the log's absolute path, URI or data set name.

        Pipeline steps run in other folders, where a relative path would not work.
        """
        if not self.data:
            return SIMULATOR
        return self.data if is_remote(self.data) else str(Path(self.data).resolve())

    @property
    def turns(self) -> int:
        """Return the number of opportunities per user."""
        return STAGES_BEFORE + self.rounds
