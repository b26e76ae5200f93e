"""Where a training stands, on disk: a killed training continues from there as if nothing had happened.

    checkpoint = Checkpoint(path, identity)
    checkpoint.save(state)
    state = checkpoint.load()           # None: nothing was saved yet

Of several processes the leading one writes, for all of them: whenever they are killed, they go on from one place. Only
tensors and plain values are read back, never code.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtorl.network.parallel import Group
from mtorl.runtime.files import replacing

_LOG = logging.getLogger(__name__)


class CheckpointError(Exception):
    """There is a checkpoint, and it is not one of this training."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of a training."""

    path: Path
    # What a training must share with the file to continue from it, such as settings and data; plain values.
    identity: Mapping[str, Any] = field(default_factory=dict)

    def of_member(self, member: int) -> Checkpoint:
        """The checkpoint of a member of an ensemble."""
        return replace(self, path=self.path.with_name(f"{self.path.name}.member-{member}"))

    def requiring(self, identity: Mapping[str, Any]) -> Checkpoint:
        """The same file with more to its identity."""
        return replace(self, identity={**self.identity, **identity})

    def files(self, members: int) -> list[Path]:
        """All files that the training of an ensemble writes."""
        return [self.of_member(i).path for i in range(members)]

    def remove(self, members: int) -> None:
        """Remove the files of an ensemble's training, once its artifact is saved."""
        for file in self.files(members):
            file.unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file in one step: a process that is killed meanwhile leaves the one before.

        A disk that is full, say, is logged and no error: hours of training are worth more than a checkpoint.

        Args:
            state: Tensors and plain values.
        """
        try:
            with replacing(self.path, durable=True) as unfinished:
                write_tensors(unfinished, {"identity": dict(self.identity), "state": dict(state)})
        except OSError as error:
            _LOG.warning("no checkpoint, training goes on: %s", error)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none.

        Raises:
            CheckpointError: the file is not a checkpoint, or one of another training.
        """
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises many types for a file that is no checkpoint
            why = str(error).partition("\n")[0]
            raise CheckpointError(f"{self.path}: cannot be read ({why}); delete it to start anew") from None
        if identity != dict(self.identity):
            keys = {*identity, *self.identity}
            differ = sorted(key for key in keys if identity.get(key) != self.identity.get(key))
            raise CheckpointError(
                f"{self.path}: belongs to another training; {', '.join(differ)} differ. Delete it, or name another file"
            )
        return dict(state)

    def load_together(self, group: Group) -> dict[str, Any] | None:
        """What the leading process loads, in every process.

        Args:
            group: Whose processes all call this.

        Raises:
            CheckpointError: as `load`, in every process.
        """
        found: dict[str, Any] | None = None
        error = ""
        if group.leads:
            try:
                found = self.load()
            except CheckpointError as refused:
                error = str(refused)
        found, error = group.from_leader((found, error))
        if error:
            raise CheckpointError(error)
        return None if found is None else dict(found)


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values.

    Raises:
        OSError: `path` can't be written. torch.save itself hides a full disk behind a fault of its format.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    path.write_bytes(buffer.getbuffer())
