"""Saves the state of a training, so that a training that was killed can continue as if it had not been interrupted.

Loading accepts only tensors and plain values, so a checkpoint file can't run code.
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
    """The checkpoint file is damaged, or was written by a training with other data or settings."""


@dataclass(frozen=True)
class Checkpoint:
    """A file in which a training saves its state, so that it can continue after an interruption.

    Attributes:
        identity: Settings and data of the training. `load` rejects a file with another identity.
    """

    path: Path
    identity: Mapping[str, Any] = field(default_factory=dict)

    def of_member(self, member: int) -> Checkpoint:
        """Return the checkpoint of one network of an ensemble, which has its own file."""
        return replace(self, path=self.path.with_name(f"{self.path.name}.member-{member}"))

    def requiring(self, identity: Mapping[str, Any]) -> Checkpoint:
        """Return this checkpoint with more entries in the identity that a file must match."""
        return replace(self, identity={**self.identity, **identity})

    def remove(self, members: int) -> None:
        """Delete the checkpoint files of all networks of an ensemble."""
        for member in range(members):
            self.of_member(member).path.unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint file atomically. If this fails, training continues, and a warning is logged."""
        try:
            with replacing(self.path, durable=True) as unfinished:
                write_tensors(unfinished, {"identity": dict(self.identity), "state": dict(state)})
        except OSError as error:
            _LOG.warning("can't write the checkpoint, training continues without it: %s", error)

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last, or None if there is no file; raises CheckpointError."""
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises many types of errors for a damaged file
            why = str(error).partition("\n")[0]
            raise CheckpointError(START_ANEW(file=self.path, what="a checkpoint", reason=why)) from None
        if identity != dict(self.identity):
            keys = {*identity, *self.identity}
            differ = sorted(key for key in keys if identity.get(key) != self.identity.get(key))
            raise CheckpointError(OTHER_TRAINING(file=self.path, fields=differ))
        return dict(state)

    def load_together(self, group: Group) -> dict[str, Any] | None:
        """Load the state in the leading process, and return it in all processes of the group.

        All processes must call this.
        """
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
    """Write tensors and plain values to a file.

    torch.save reports a full disk as a format error, so this function serialises to memory first.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    path.write_bytes(buffer.getbuffer())
