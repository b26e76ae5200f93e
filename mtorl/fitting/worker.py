"""Trains the challenger with the arguments in a task file. Torchrun starts several processes with the same file.

    torchrun --standalone --nproc-per-node=4 -m mtorl.fitting.worker TASK.json

After wrong input, the process exits with status 0, because torchrun would retry after any other status.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mtorl.artifact.artifact import Artifact
from mtorl.fitting.fit import fit_challenger
from mtorl.network.training import TrainConfig
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError


@dataclass(frozen=True)
class FitTask:
    """The arguments of `mtorl.fitting.fit.fit_challenger`, which documents them."""

    windows: str
    out: str
    config: TrainConfig
    budget_share: float
    checkpoint: str = ""
    log: str = ""

    def run(self) -> Artifact | None:
        """Train the challenger. Return its artifact in the leading process, and None in all others."""
        return fit_challenger(self.windows, self.out, self.config, self.budget_share, self.checkpoint, self.log)

    def save(self, path: Path) -> None:
        """Write the task to a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, path: Path) -> FitTask:
        """Read a task from a file that `save` has written."""
        kept = json.loads(path.read_text())
        return cls(**{**kept, "config": TrainConfig(**kept["config"])})


def main(task: str) -> None:
    """Run the training that the file `task` describes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        FitTask.load(Path(task)).run()
    except InputError as error:
        progress.input_error(error)


if __name__ == "__main__":
    main(sys.argv[1])
