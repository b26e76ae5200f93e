"""Reads the logged decisions of an incumbent that has no artifact, such as a rule or an external server.

    LoggedIncumbent("our-rules 3").write("windows", "incumbent")   # in place of an artifact
    incumbent = LoggedIncumbent.named_in("incumbent")              # None if the folder contains an artifact

The incumbent's probabilities are known only for its logged decisions, so both policies are compared at these decisions.
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
_ARMS = ("incumbent", "outside")  # the incumbent also decides for users outside the experiment


@dataclass(frozen=True)
class LoggedIncumbent:
    """An incumbent that serves users and has no artifact."""

    # Digest of its model, or else its name and version.
    policy: str

    @classmethod
    def named_in(cls, folder: str | Path) -> LoggedIncumbent | None:
        """Read the incumbent from a folder that `write` has written; None for any other folder."""
        path = Path(folder) / _FILE
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, windows: str, folder: str) -> None:
        """Write a folder that contains the incumbent's name instead of an artifact.

        Raises:
            WindowError: `windows` contains too few decisions of the incumbent.
        """
        self.decisions(windows, DatasetSpec.load(Path(windows) / DATASET_FILE))
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _FILE).write_text(json.dumps(asdict(self)))

    def decisions(self, windows: str, spec: DatasetSpec) -> Opportunities:
        """Return the incumbent's logged decisions for test users.

        Raises:
            WindowError: There are too few decisions, or none with an exposure.
        """
        found = Opportunities.load(windows, spec, "test")
        own = found.chosen((found.rows["arm"].isin(_ARMS) & (found.rows["generation"] == self.policy)).to_numpy())
        if not own.enough:
            raise WindowError(messages.INCUMBENT_DECISIONS(policy=self.policy, count=len(own), needed=ENOUGH))
        if not own.exposed_B.any():
            raise WindowError(messages.EXPOSED_NOTHING(policy=self.policy, count=len(own)))
        return own
