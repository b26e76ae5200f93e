"""Stores large results of pipeline steps as snapshots: folders on a volume, named by a digest of their content.

    with snapshot(artifact.path, "/mnt/mtorl/snapshots", "windows") as folder:      # the step that writes
        ...
    folder = located(artifact.path)                                                 # each step that reads

    snapshots/windows-3f2a.../       immutable, except that forgotten users are removed
    artifact.path/snapshot.json      {"path": ".../snapshots/windows-3f2a...", "sha256": "3f2a..."}

Kubeflow Pipelines transfers only the small file snapshot.json. Folders with different content have different names, so
no run changes the input of another run. The `_KEPT` most recently used snapshots of each kind are kept, and all that
were used in the last day, because a run may take half a day.

The pipeline's cache may point to snapshots that a new or restored volume does not have. So the generation of the
volume, a random text, is a parameter of the steps that write snapshots. A new volume gets a new generation, and its
first run uses no result of another volume. If a step needs a missing snapshot, it fails and begins a new generation.
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

_POINTER, _LOCK, _GENERATION = "snapshot.json", ".lock", "generation"
_KEPT = 3
_USED_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def snapshot(artifact: str, place: str, kind: str) -> Iterator[Path]:
    """Yield a new folder for the output of a step, which becomes a snapshot at the end of the block.

    Args:
        place: Folder of all snapshots. If it is "", the artifact's own path is yielded instead.
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
        _begin_generation(folder.parent)
        raise FileNotFoundError(f"{folder}: this snapshot is missing; run the pipeline again to recreate it")
    with contextlib.suppress(PermissionError):
        # `_prune` keeps the snapshots with the newest modification times.
        os.utime(folder)
    return folder


def generation(place: str) -> str:
    """Return a random text that is new for each new volume and after a missing snapshot.

    Args:
        place: Folder of all snapshots; if "", the generation is "".
    """
    if not place:
        return ""
    file = Path(place) / _GENERATION
    if not file.exists():
        _begin_generation(Path(place))
    return file.read_text()


def _begin_generation(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with replacing(root / _GENERATION) as unfinished:
        unfinished.write_text(secrets.token_hex(8))


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
