"""Runs a training from a task file; torchrun starts several of these processes.

    FitTask(windows, out, TrainConfig(), budget_share=0.5).save(path)
    torchrun --standalone --nproc-per-node=4 -m mtorl.fitting.worker TASK.json

If an error would occur again in a retry, the process reports the error (`mtorl.runtime.progress.input_error`) and exits
with status 0, because the launcher would restart all processes if one failed.
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
        """Train; returns None except in the leading process."""
        return fit_challenger(self.windows, self.out, self.config, self.budget_share, self.checkpoint, self.log)

    def save(self, path: Path) -> None:
        """Write the task as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, path: Path) -> FitTask:
        """Read a task that `save` wrote."""
        kept = json.loads(path.read_text())
        return cls(**{**kept, "config": TrainConfig(**kept["config"])})


def main(task: str) -> None:
    """Run the `FitTask` in the file `task`, together with the other processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        FitTask.load(Path(task)).run()
    except InputError as error:
        progress.input_error(error)


if __name__ == "__main__":
    main(sys.argv[1])
