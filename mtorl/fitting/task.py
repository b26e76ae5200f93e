"""A training of the challenger as a value: what it reads, where it writes, how it trains. Processes get it as a file.

task = FitTask(windows, out, TrainConfig(), budget_share=0.5)
task.save(path)
FitTask.load(path).run()
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mtorl.artifact.artifact import Artifact
from mtorl.network.training import TrainConfig


@dataclass(frozen=True)
class FitTask:
    """Arguments of `mtorl.fitting.fit.fit_challenger`, which explains them."""

    windows: str
    out: str
    config: TrainConfig
    budget_share: float
    checkpoint: str = ""
    log: str = ""

    def run(self) -> Artifact | None:
        """Train; None in a process that does not lead."""
        from mtorl.fitting.fit import fit_challenger

        return fit_challenger(self.windows, self.out, self.config, self.budget_share, self.checkpoint, self.log)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, path: Path) -> FitTask:
        """Read what `save` has written."""
        kept = json.loads(path.read_text())
        return cls(**{**kept, "config": TrainConfig(**kept["config"])})
