"""Snapshots: folders by their content on a volume, to which a pipeline's artifacts point instead of holding a copy.

    with snapshot(artifact.path, "/mnt/mtorl/snapshots", "windows") as folder:      # the step that writes
        ...
    folder = located(artifact.path)                                                 # each step that reads

    snapshots/windows-3f2a.../       never changed, except that users are forgotten in it
    artifact.path/snapshot.json      {"path": ".../snapshots/windows-3f2a...", "sha256": "3f2a..."}

Kubeflow Pipelines uploads and downloads artifacts whole; that is now one small file. Other content is another folder,
so no run changes what another one reads. Without a volume, as on a laptop, the artifact itself is the folder.

Of each kind the `_KEPT` that were used last stay, and all that were used within a day: a run takes half of one at most.
A cached step may point to one that is gone, as after a restore of the volume. The step that finds this out fails and
counts it, and the count is a parameter of the steps that write: the next run writes anew.
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
    """A folder to write to; at the end of the block it is a snapshot, and the artifact at a path points to it.

    `place` is the folder of all snapshots ("": the artifact itself is the folder); those of a kind replace each other.
    """
    if not place:
        yield Path(artifact)
        return
    root = Path(place)
    root.mkdir(parents=True, exist_ok=True)
    unfinished, forgotten = root / f".{kind}.{secrets.token_hex(4)}", _forgotten(root)
    try:
        yield unfinished
        if _forgotten(root) != forgotten:  # of whom rows may have been written already
            raise RuntimeError(f"{root}: users were forgotten while a snapshot was written; run the step again")
        digest = _digest(unfinished)
        kept = root / f"{kind}-{digest[:16]}"
        with locked(root / _LOCK, TimeoutError(f"{root}: another run has held it for a minute"), wait_seconds=60):
            if not kept.exists():
                os.rename(unfinished, kept)
            os.utime(kept)
            _prune(root, kind)
    finally:
        remove(unfinished)
    Path(artifact).mkdir(parents=True, exist_ok=True)
    (Path(artifact) / _POINTER).write_text(json.dumps({"path": str(kept), "sha256": digest}))


def located(artifact: str) -> Path:
    """The folder of an artifact: the snapshot to which it points, or else the artifact itself."""
    pointer = Path(artifact) / _POINTER
    if not pointer.is_file():
        return Path(artifact)
    folder = Path(json.loads(pointer.read_text())["path"])
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder.parent / _LOST) as unfinished:
            unfinished.write_text(str(int(lost(str(folder.parent))) + 1))
        raise FileNotFoundError(f"{folder}: this snapshot is gone; run the pipeline again, which writes it anew")
    with contextlib.suppress(PermissionError):
        os.utime(folder)  # when it was used last
    return folder


def lost(place: str) -> str:
    """Number of times that an artifact's snapshot was missing, as a text; "" for no folder of snapshots."""
    file = Path(place) / _LOST
    return "" if not place else file.read_text() if file.exists() else "0"


def _digest(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("\n".join(f"{name}:{sha256_of(folder / name)}" for name in names).encode()).hexdigest()


def _forgotten(root: Path) -> list[int]:
    """Times of the lists of forgotten users (`mtorl.log.forgotten`) that hold for a folder."""
    files = (folder / "forgotten.json" for folder in (root, *root.parents))
    return [file.stat().st_mtime_ns for file in files if file.exists()]


def _prune(root: Path, kind: str) -> None:
    """Remove what is neither of the newest nor in use, and what a killed process left."""
    by_use = sorted(root.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in [*by_use[_KEPT:], *root.glob(f".{kind}.*")]:
        if time.time() - folder.stat().st_mtime > _USED_SECONDS:
            hidden = root / f".{kind}.{secrets.token_hex(4)}"  # a snapshot is whole or not there
            os.rename(folder, hidden)
            remove(hidden)
