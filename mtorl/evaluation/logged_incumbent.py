"""An incumbent without an artifact, known only by its decisions: a request's baseline, a rule, or an external server.

    LoggedIncumbent("our-rules 3").write("windows", "incumbent")   # in place of an artifact
    incumbent = LoggedIncumbent.named_in("incumbent")              # None if the folder contains an artifact
    decisions = incumbent.decisions("windows", spec)

Such a policy can't be evaluated at arbitrary states, because the log has its probabilities only at its own decisions.
So its value is estimated on-policy at these decisions, and a challenger's value off-policy at the same decisions.
Decisions of other arms contain no information about this policy. An earlier version of it counts as another policy.
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
_ARMS = ("incumbent", "outside")  # users outside the experiment also get the incumbent


@dataclass(frozen=True)
class LoggedIncumbent:
    """A serving incumbent without an artifact."""

    policy: str  # its name in the records: the digest, or else name and version

    @classmethod
    def named_in(cls, folder: str | Path) -> LoggedIncumbent | None:
        """Read what `write` has written; None if the folder contains something else."""
        path = Path(folder) / _FILE
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, windows: str, folder: str) -> None:
        """Write a folder in place of an artifact's folder.

        Raises:
            WindowError: The windows have too few of the incumbent's decisions. Raised here, it saves a training.
        """
        self.decisions(windows, DatasetSpec.load(Path(windows) / DATASET_FILE))
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _FILE).write_text(json.dumps(asdict(self)))

    def decisions(self, windows: str, spec: DatasetSpec) -> Opportunities:
        """Return those of the incumbent's decisions for test users that can be evaluated.

        Raises:
            WindowError: There are too few such decisions, or none of them led to an exposure.
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
