"""One of the processes of a training, as a launcher starts it.

    python -m torch.distributed.run --standalone --nproc-per-node=4 -m mtorl.fitting.worker TASK.json

What another attempt can't mend is reported (`mtorl.runtime.progress.input_error`) and no failure of the process: its
launcher would start all of them again. Every other error is one.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from mtorl.fitting.task import FitTask
from mtorl.log.columns import WindowError
from mtorl.network.checkpoint import CheckpointError
from mtorl.network.training import TrainingDiverged
from mtorl.runtime import progress

FINAL = (CheckpointError, TrainingDiverged, WindowError)
"""Errors that the next attempt would meet, too."""


def main(task: str) -> None:
    """Train, together with the other processes.

    Args:
        task: File of a `FitTask`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        FitTask.load(Path(task)).run()
    except FINAL as error:
        progress.input_error(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
