"""Stores large pipeline artifacts as snapshots: folders on a volume that are named by a digest of their content.

    with snapshot(artifact.path, "/mnt/mtorl/snapshots", "windows") as folder:      # the step that writes
        ...
    folder = located(artifact.path)                                                 # each step that reads

    snapshots/windows-3f2a.../       immutable, except that forgotten users are removed
    artifact.path/snapshot.json      {"path": ".../snapshots/windows-3f2a...", "sha256": "3f2a..."}

Kubeflow Pipelines uploads and downloads only a small file that points to the folder. Different content is in different
folders, so no run changes the input of another run. Without a volume, as on a laptop, the artifact is the folder.

The `_KEPT` most recently used snapshots of each kind are kept, and all that were used within a day, because a run takes
half a day at most. After a restore of the volume, a step's cached result may point to a missing snapshot. The step that
reads it fails and increments a count. The count is a parameter of the writing steps, so the next run executes them.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from mtorl.runtime.files import remove, replacing, sha256_of
from mtorl.runtime.locks import locked

_POINTER, _LOCK, _LOST = "snapshot.json", ".lock", "lost"
_KEPT = 3
_USED_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def snapshot(artifact: str, place: str, kind: str) -> Iterator[Path]:
    """Yields a folder to write to. At the end of the block it becomes a snapshot, and the artifact points to it.

    `place` is the folder of all snapshots. If it is "", the caller writes to the artifact's own path.
    """
    if not place:
        yield Path(artifact)
        return
    root = Path(place)
    root.mkdir(parents=True, exist_ok=True)
    unfinished, forgotten = root / f".{kind}.{secrets.token_hex(4)}", _forgotten(root)
    try:
        yield unfinished
        if _forgotten(root) != forgotten:  # rows of newly forgotten users may be in the folder
            raise RuntimeError(f"{root}: users were forgotten while a snapshot was written; run the step again")
        digest = _digest(unfinished)
        kept = root / f"{kind}-{digest[:16]}"
        with locked(root / _LOCK, TimeoutError(f"{root}: another run locked it for a minute"), wait_seconds=60):
            if not kept.exists():
                os.rename(unfinished, kept)
            os.utime(kept)
            _prune(root, kind)
    finally:
        remove(unfinished)
    Path(artifact).mkdir(parents=True, exist_ok=True)
    (Path(artifact) / _POINTER).write_text(json.dumps({"path": str(kept), "sha256": digest}))


def located(artifact: str) -> Path:
    """The snapshot that an artifact points to, or the artifact's own path if it points to none."""
    pointer = Path(artifact) / _POINTER
    if not pointer.is_file():
        return Path(artifact)
    folder = Path(json.loads(pointer.read_text())["path"])
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder.parent / _LOST) as unfinished:
            unfinished.write_text(str(int(lost(str(folder.parent))) + 1))
        raise FileNotFoundError(f"{folder}: this snapshot is missing; run the pipeline again to recreate it")
    with contextlib.suppress(PermissionError):
        os.utime(folder)  # marks it as used now
    return folder


def lost(place: str) -> str:
    """The number of times that a snapshot of the folder `place` was missing, as text; "" if `place` is ""."""
    file = Path(place) / _LOST
    return "" if not place else file.read_text() if file.exists() else "0"


def _digest(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("\n".join(f"{name}:{sha256_of(folder / name)}" for name in names).encode()).hexdigest()


def _forgotten(root: Path) -> list[int]:
    """Modification times of the lists of forgotten users (`mtorl.log.forgotten`) that apply to a folder."""
    files = (folder / "forgotten.json" for folder in (root, *root.parents))
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def _prune(root: Path, kind: str) -> None:
    """Remove old snapshots, and unfinished folders that a killed process left."""
    by_use = sorted(root.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in [*by_use[_KEPT:], *root.glob(f".{kind}.*")]:
        if time.time() - folder.stat().st_mtime > _USED_SECONDS:
            hidden = root / f".{kind}.{secrets.token_hex(4)}"  # no reader sees a half-removed snapshot
            os.rename(folder, hidden)
            remove(hidden)
