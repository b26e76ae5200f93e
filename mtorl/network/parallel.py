"""Controls how many threads and processes train a network: one thread in each process that torchrun starts.

The network's matrices are too small for several threads, which would mostly wait for each other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mtorl.runtime.errors import InputError


class TrainingFailed(InputError):
    """A training in another process or pod has failed."""


@dataclass(frozen=True)
class Group:
    """The processes that train one network together. `rank` is the number of this process, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the leading process (rank 0), which reports progress and saves files."""
        return self.rank == 0

    def all_of(self, value: Any) -> list[Any]:
        """Return the `value` of each process, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """Return the `value` of the leading process in all processes."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def total(self, values: Tensor) -> Tensor:
        """Return the element-wise sum of the tensors of all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def processors() -> int:
    """Return the number of processors that this process may use. OMP_NUM_THREADS lowers the number."""
    limit, present = os.environ.get("OMP_NUM_THREADS", ""), len(os.sched_getaffinity(0))
    return min(int(limit), present) if limit.isdecimal() and int(limit) else present


def device_of(name: str) -> torch.device:
    """Return the torch device with this name. "auto" means this process's GPU, or the CPU if there is none."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined() -> Iterator[Group]:
    """Connect the processes that torchrun has started, until the end of the block."""
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one CPU thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def worker_processes(
    count: int, prepare: Callable[..., None] | None = None, *args: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of `count` worker processes, which end with the block or with this process."""
    # Spawn, because torch and LightGBM do not work in a fork of a process that has used them.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(count, context, _start_worker, (prepare, args)) as pool:
        try:
            yield pool
        finally:
            for child in multiprocessing.active_children():
                if child not in others:
                    # Otherwise the end of the block would wait for unfinished tasks.
                    child.terminate()


def _start_worker(prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    # Ignore Ctrl-C, because the parent process terminates the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been spawned"
    parent.join()
    os._exit(1)
