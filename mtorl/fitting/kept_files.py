"""Files of a training that outlive its run: checkpoints, curves for TensorBoard, what its pods share.

    files = KeptFiles.of(volume, windows, config, budget_share, code_version)
    fit_challenger(windows, out, config, budget_share, files.checkpoint, files.tensorboard)
    prune(volume)

The names follow from everything that decides how a training goes. So a training continues where an earlier one of the
same data, settings and code was stopped, in any run; and two trainings that differ in anything never meet.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mtorl.fitting.training_summary import git_revision
from mtorl.network.training import TrainConfig
from mtorl.runtime.files import remove

CHECKPOINT_DAYS, CURVE_DAYS = 7, 90
"""How long a file is kept after it was written last. The checkpoints of a training that ended well go at its end."""
_DAYS = {"checkpoints": CHECKPOINT_DAYS, "shared": CHECKPOINT_DAYS, "tensorboard": CURVE_DAYS}


@dataclass(frozen=True)
class KeptFiles:
    """Names of a training's files; empty: it keeps none."""

    checkpoint: str  # start of the names of files
    tensorboard: str  # folder
    shared: str  # folder in which pods of other nodes find the windows and leave the artifact

    @classmethod
    def of(
        cls,
        volume: str,
        windows: str,
        config: TrainConfig,
        budget_share: float,
        code_version: str,
        processes: int = 1,
    ) -> KeptFiles:
        """Name the files of a training.

        Args:
            volume: Folder that outlives the process; empty for none.
            code_version: The library's version; its git revision counts too.
            processes: How many train together. A checkpoint of two is none for four: their batches differ.
        """
        if not volume:
            return cls("", "", "")
        manifest = json.loads(Path(windows, "manifest.json").read_text())
        what = {
            "windows": manifest["content_sha256"],
            "dataset": Path(windows, "dataset.yaml").read_text(),
            "config": asdict(config),
            "budget_share": budget_share,
            "code": [code_version, git_revision()],
            "processes": processes,
        }
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        return cls(f"{volume}/checkpoints/{name}.pt", f"{volume}/tensorboard/{name}", f"{volume}/shared/{name}")


def prune(volume: str, now: float | None = None) -> list[Path]:
    """Remove files of unfinished trainings and old curves, by their days; returns what was removed."""
    if not volume:
        return []
    now = time.time() if now is None else now
    removed = []
    for folder, days in _DAYS.items():
        for entry in sorted(Path(volume, folder).glob("*")):
            if now - _last_written(entry) > days * 86_400:
                remove(entry)
                removed.append(entry)
    return removed


def _last_written(entry: Path) -> float:
    """Time of the last write to an entry or anything in it; now, if another process has just removed it."""
    try:
        return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:
        return time.time()
