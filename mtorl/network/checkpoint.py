"""Where a training stands, on disk: what was killed goes on from there as if nothing had happened.

    save(path, identity, state)
    state = load(path, identity)        # None: there is nothing yet

`identity` is what both trainings must share. Only tensors and plain values are read back, never code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """There is a checkpoint, and it is not one of this training."""


def save(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in one step: whoever is killed here leaves the one before.

    Args:
        path: Of the file.
        identity: What a training must share with it to go on from it: settings and data. Plain values.
        state: Tensors and plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"identity": dict(identity), "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that was saved last; None if there is none.

    Raises:
        CheckpointError: the file is not a checkpoint, or one of another training.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        theirs, state = found["identity"], found["state"]
    except Exception as error:  # torch has many for a file that is not one
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it to start anew") from None
    if theirs != dict(identity):
        differs = sorted(key for key in {*theirs, *identity} if theirs.get(key) != identity.get(key))
        raise CheckpointError(
            f"{path}: belongs to another training; {', '.join(differs)} differ. Delete it, or name another file"
        )
    return dict(state)
