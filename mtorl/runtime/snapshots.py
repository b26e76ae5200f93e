"""Stores large results of pipeline steps as snapshots: folders on a volume, named by a digest of their content.

    with snapshot(artifact.path, "/mnt/mtorl/snapshots", "windows") as folder:      # the step that writes
        ...
    folder = located(artifact.path)                                                 # each step that reads

    snapshots/windows-3f2a.../       immutable, except that forgotten users are removed
    artifact.path/snapshot.json      {"path": ".../snapshots/windows-3f2a...", "sha256": "3f2a..."}

Kubeflow Pipelines transfers only the small file snapshot.json, which points to the folder. Folders with different
content have different names, so no run changes the input of another run. Without a volume, as on a laptop, the data are
written to the artifact itself.

For each kind, the `_KEPT` most recently used snapshots are kept, and all snapshots that were used in the last day,
because a run may take half a day.

After a volume was restored from a backup, the pipeline's cache may point to a snapshot that no longer exists. The step
that reads this snapshot fails and increments a counter. The counter is a parameter of the steps that write snapshots,
so the next run does not use the cache but executes these steps.
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
    """Yields a new folder for the output of a step. At the end of the block, the folder is stored as a snapshot.

    The artifact then contains only a small file with the path of the snapshot.

    Args:
        place: Folder of all snapshots; if "", the caller writes to the path of the artifact instead.
        kind: Beginning of the snapshot's name, such as "windows".
    """
    if not place:
        yield Path(artifact)
        return
    root = Path(place)
    root.mkdir(parents=True, exist_ok=True)
    unfinished, forgotten = root / f".{kind}.{secrets.token_hex(4)}", _forgotten(root)
    try:
        yield unfinished
        # If users were removed from the log during the block, the folder may still contain their rows.
        if _forgotten(root) != forgotten:
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
    """Return the snapshot to which an artifact points, or the artifact's own path if it has no snapshot.

    Raises:
        FileNotFoundError: The snapshot no longer exists.
    """
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
        # Record the time of use as the modification time, because `_prune` keeps recently used snapshots.
        os.utime(folder)
    return folder


def lost(place: str) -> str:
    """Return how often a snapshot in the folder `place` was missing when a step needed it; "" if `place` is ""."""
    file = Path(place) / _LOST
    return "" if not place else file.read_text() if file.exists() else "0"


def _digest(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("\n".join(f"{name}:{sha256_of(folder / name)}" for name in names).encode()).hexdigest()


def _forgotten(root: Path) -> list[int]:
    """Return when the lists of removed users were last changed, as modification times.

    The lists that apply to a folder are in the folder itself and in its parent folders (`mtorl.log.forgotten`).
    """
    files = (folder / "forgotten.json" for folder in (root, *root.parents))
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def _prune(root: Path, kind: str) -> None:
    """Delete the snapshots of a kind that were not used recently, and unfinished folders of killed processes."""
    by_use = sorted(root.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in [*by_use[_KEPT:], *root.glob(f".{kind}.*")]:
        if time.time() - folder.stat().st_mtime > _USED_SECONDS:
            # Rename the folder before deleting it, so that no step finds a snapshot of which some files are already
            # deleted.
            hidden = root / f".{kind}.{secrets.token_hex(4)}"
            os.rename(folder, hidden)
            remove(hidden)
