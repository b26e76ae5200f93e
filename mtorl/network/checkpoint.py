"""Saves checkpoints, from which a killed training continues as if it had not been interrupted.

    checkpoint = Checkpoint(path, identity)
    checkpoint.save(state)
    state = checkpoint.load()           # None: nothing was saved yet

In a training with several processes, only the leading one writes, so that all of them continue from the same state.
Loading reads only tensors and plain values, never code.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtorl.network.messages import OTHER_TRAINING
from mtorl.network.parallel import Group
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.runtime.messages import START_ANEW

_LOG = logging.getLogger(__name__)


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another training."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of a training."""

    path: Path
    # Plain values, such as settings and data. A training continues only from a file with the same values.
    identity: Mapping[str, Any] = field(default_factory=dict)

    def of_member(self, member: int) -> Checkpoint:
        """The checkpoint of a member of an ensemble."""
        return replace(self, path=self.path.with_name(f"{self.path.name}.member-{member}"))

    def requiring(self, identity: Mapping[str, Any]) -> Checkpoint:
        """The same checkpoint file, with further values that must be equal (`identity`)."""
        return replace(self, identity={**self.identity, **identity})

    def remove(self, members: int) -> None:
        """Remove the files of an ensemble's training, once its artifact is saved."""
        for member in range(members):
            self.of_member(member).path.unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file atomically, so that a process that is killed halfway leaves the previous checkpoint.

        An OSError, such as a full disk, is logged and not raised, because a training is worth more than a checkpoint.
        """
        try:
            with replacing(self.path, durable=True) as unfinished:
                write_tensors(unfinished, {"identity": dict(self.identity), "state": dict(state)})
        except OSError as error:
            _LOG.warning("can't write the checkpoint, training continues without it: %s", error)

    def load(self) -> dict[str, Any] | None:
        """The last saved state, if any; raises CheckpointError."""
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises many types of errors for an invalid file
            why = str(error).partition("\n")[0]
            raise CheckpointError(START_ANEW(file=self.path, what="a checkpoint", reason=why)) from None
        if identity != dict(self.identity):
            keys = {*identity, *self.identity}
            differ = sorted(key for key in keys if identity.get(key) != self.identity.get(key))
            raise CheckpointError(OTHER_TRAINING(file=self.path, fields=differ))
        return dict(state)

    def load_together(self, group: Group) -> dict[str, Any] | None:
        """Return the state that the leading process loads, or raise its error, in all processes; all must call this."""
        found: dict[str, Any] | None = None
        error = ""
        if group.leads:
            try:
                found = self.load()
            except CheckpointError as refused:
                error = refused.args[0]
        found, error = group.from_leader((found, error))
        if error:
            raise CheckpointError(error)
        return None if found is None else dict(found)


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values. On a full disk, raises OSError; torch.save would report a format error."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    path.write_bytes(buffer.getbuffer())
