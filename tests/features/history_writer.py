"""A process of its own that writes into one user's history; started by `online/test_history_writers.py`.

Arguments:

    python -m tests.features.history_writer REPOSITORY DATASET_YAML USER START WORKER TOUCHPOINTS

It says that it is ready, and begins when it is told a line, so that all of them write at the same time.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

from features.online.open_history import open_history
from mtorl.log.dataset import DatasetSpec
from tests.features.online_histories import Touchpoint, append, hear


def write(repo: Path, spec: DatasetSpec, user: str, start: datetime, worker: int, count: int) -> None:
    """Append a touchpoint in one of every four seconds, some of them twice, and give each a click."""
    with open_history(repo, spec) as history:
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(count):
            # No worker writes in step with another.
            when = start + timedelta(seconds=4 * turn + (worker + turn) % 4)
            touchpoint = Touchpoint(when, spec.channels[worker], {"device": "phone"})
            assert append(history, user, touchpoint)
            assert turn % 10 or not append(history, user, touchpoint)
            assert hear(history, user, touchpoint.event("click", 1.0))


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # Feast would import it, for seconds, and not use it
    repo, dataset, user, start, worker, count = sys.argv[1:]
    write(Path(repo), DatasetSpec.load(dataset), user, datetime.fromisoformat(start), int(worker), int(count))
