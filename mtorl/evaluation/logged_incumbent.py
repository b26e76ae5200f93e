"""An incumbent without an artifact, by its decisions: a request's baseline, rows of a rule, another's server.

    LoggedIncumbent("our-rules 3").write("windows", "incumbent")   # where an artifact would be
    incumbent = LoggedIncumbent.named_in("incumbent")              # None: the folder is an artifact's
    decisions = incumbent.decisions("windows", spec)

Such a policy can't be evaluated at other states. At its own decisions the log has its probabilities, so it is valued
on-policy, and a challenger off-policy at the same decisions. Decisions of other arms say nothing about this policy, and
an earlier version of it is another policy.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mtorl.evaluation import messages
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import ENOUGH, Opportunities
from mtorl.log.touchpoints import DATASET_FILE

_FILE = "logged_incumbent.json"
_ARMS = ("incumbent", "outside")  # users who are in no arm get the incumbent


@dataclass(frozen=True)
class LoggedIncumbent:
    """The policy that serves as the incumbent, and has no artifact."""

    policy: str  # its name in the records: digest, or else name and version

    @classmethod
    def named_in(cls, folder: str | Path) -> LoggedIncumbent | None:
        """Read what `write` has written; None if the folder holds something else."""
        path = Path(folder) / _FILE
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, windows: str, folder: str) -> None:
        """Write a folder that stands where an artifact's would.

        Raises:
            WindowError: The windows have too few of its decisions. This fails before a challenger has been trained.
        """
        self.decisions(windows, DatasetSpec.load(Path(windows) / DATASET_FILE))
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _FILE).write_text(json.dumps(asdict(self)))

    def decisions(self, windows: str, spec: DatasetSpec) -> Opportunities:
        """The incumbent's decisions for test users that can be evaluated.

        Raises:
            WindowError: There are too few, or it exposed nothing in them.
        """
        found, own = Opportunities.load(windows, spec, "test"), None
        if found is not None:
            own = found.chosen((found.rows["arm"].isin(_ARMS) & (found.rows["generation"] == self.policy)).to_numpy())
        count = 0 if own is None else len(own)
        if own is None or count < ENOUGH:
            raise WindowError(messages.INCUMBENT_DECISIONS(policy=self.policy, count=count, needed=ENOUGH))
        if not own.exposed_B.any():
            raise WindowError(messages.EXPOSED_NOTHING(policy=self.policy, count=count))
        return own
