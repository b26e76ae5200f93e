"""Stores large results of pipeline steps as snapshots: folders on a volume, named by a digest of their content.

    with snapshot(artifact.path, "/mnt/mtorl/snapshots", "windows") as folder:      # the step that writes
        ...
    folder = located(artifact.path)                                                 # each step that reads

Kubeflow Pipelines transfers only a small file with the path of the folder.

A step that needs a missing snapshot increments the counter `lost`, a parameter of the steps that write snapshots. So
the next run executes those steps instead of using the cache.
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
    """Yield a new folder for the output of a step, which is stored as a snapshot at the end of the block.

    Args:
        place: Folder of all snapshots; if "", the caller writes to the artifact's path instead.
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
        # The folder may still contain rows of the users who were removed during the block.
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
        # `_prune` keeps the snapshots with the newest modification times.
        os.utime(folder)
    return folder


def lost(place: str) -> str:
    """Return how often a needed snapshot in the folder `place` was missing; "" if `place` is ""."""
    file = Path(place) / _LOST
    return "" if not place else file.read_text() if file.exists() else "0"


def _digest(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("\n".join(f"{name}:{sha256_of(folder / name)}" for name in names).encode()).hexdigest()


def _forgotten(root: Path) -> list[int]:
    """Return when the lists of removed users, in the folder and its parents, were last changed."""
    files = (folder / "forgotten.json" for folder in (root, *root.parents))
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def _prune(root: Path, kind: str) -> None:
    by_use = sorted(root.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in [*by_use[_KEPT:], *root.glob(f".{kind}.*")]:
        if time.time() - folder.stat().st_mtime > _USED_SECONDS:
            # Rename first, so that no step finds a half-deleted snapshot.
            hidden = root / f".{kind}.{secrets.token_hex(4)}"
            os.rename(folder, hidden)
            remove(hidden)
