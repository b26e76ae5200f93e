"""One training on several processes, a part of each batch to each: `python -m torch.distributed.run ... mtorl train`.

Launched in another way, a process is alone and all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """This process among those of one training."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that reports and saves."""
        return self.rank == 0

    def all_of(self, value: Any) -> list[Any]:
        """A plain value of each process, in the order of their ranks."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def device_of(name: str) -> torch.device:
    """The device that "auto" or a name means for this process: with several GPUs, each takes its own."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined() -> Iterator[Group]:
    """Join the group that the launcher describes in the environment, until the block ends."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device_of("auto"))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
