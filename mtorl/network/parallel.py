"""Controls a training's threads and processes: one thread for each process, and as many processes as torchrun starts.

    torchrun --standalone --nproc-per-node=4 -m cli.main train WINDOWS OUT

A TrainJob of Kubeflow Trainer starts `mtorl.fitting.worker` in the same way, on one node or several.

A process uses one thread, because a small network's matrices are too small to divide. Several threads would mostly wait
for each other. On a busy machine, threads would also wait for the scheduler, and be several times slower than one.
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
    """A training in subprocesses failed; the message says why, and what to do."""


@dataclass(frozen=True)
class Group:
    """The processes of a training, as seen by the process with this `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the leading one, which reports and saves."""
        return self.rank == 0

    def all_of(self, value: Any) -> list[Any]:
        """Gather the values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """Broadcast the value of the leading process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def total(self, values: Tensor) -> Tensor:
        """Sum the values over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


def processors() -> int:
    """Number of processors that this process may use, at most OMP_NUM_THREADS."""
    limit, present = os.environ.get("OMP_NUM_THREADS", ""), len(os.sched_getaffinity(0))
    return min(int(limit), present) if limit.isdecimal() and int(limit) else present


def device_of(name: str) -> torch.device:
    """The device `name`; for "auto", this process's own GPU, or the CPU if there is no GPU."""
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined() -> Iterator[Group]:
    """Join the group that the launcher describes in environment variables, until the end of the block."""
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
    """Limit torch to one CPU thread inside the block; a GPU is not affected."""
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
    """A pool of one-threaded processes that first call `prepare`; they exit with the block or with this process."""
    # Processes are spawned, because torch and LightGBM do not work in a fork of a process that has used them.
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(count, context, _start_worker, (prepare, args)) as pool:
        try:
            yield pool
        finally:
            for child in multiprocessing.active_children():
                if child not in others:
                    child.terminate()  # the end of the block must not wait for unfinished work


def _start_worker(prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl+C, the parent terminates its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been spawned"
    parent.join()
    os._exit(1)
