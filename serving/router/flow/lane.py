"""Lanes: threads that take decisions through their stages, for an event loop that must not wait.

A thread takes all jobs that wait in its lane as one batch. So one read of features, one POST, one transaction and one
sync serve many requests, and a request costs one hop into a thread and one back. Each arm has a lane: an arm that hangs
holds up its own users alone.

A thread can't be stopped. So the event loop watches each job: if its stage takes too long, the loop takes the job over,
and its caller gets the default action in time. A thread whose jobs were all taken over does not count in its lane.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from time import monotonic
from typing import get_args

from serving.router.flow.pending_decision import PendingDecision
from serving.router.ops.metrics import Stage

_AT_ONCE = 2  # batches in a lane ...
_SECOND_SECONDS = 0.01  # ... the second one only if the first takes longer: large batches are cheaper
_THREADS = 10  # of a lane: when all hang, it stands still until one returns
_LARGEST = 64  # decisions in a batch, about: a few milliseconds of a model
_GRACE_SECONDS = 0.002  # beyond a stage's end, for a thread that keeps to it
_SOON_SECONDS = 0.002  # until a job that is just being changed is checked again

_ORDER: tuple[Stage, ...] = get_args(Stage)


class NotCalled(RuntimeError):
    """A stage is left out: the deadline does not allow it (`late`), or its part has failed too often."""

    def __init__(self, why: str, late: bool = False) -> None:
        super().__init__(why)
        self.late = late


class Job:
    """Decisions of one request for one arm. A lane's thread changes them, until the event loop takes the job over."""

    done: asyncio.Future[None]  # set by the lane when the thread has finished
    timer: asyncio.TimerHandle  # of the lane's next check of the job

    def __init__(self, decisions: Sequence[PendingDecision], stage: Stage = "features") -> None:
        self.decisions = decisions
        self.deadline = decisions[0].deadline
        self.lock = threading.Lock()  # held while the thread changes the decisions
        self.bug: Exception | None = None  # that no stage expects
        self.taken = False  # by the event loop
        self.waits_for(stage)

    def waits_for(self, stage: Stage, calling: bool = False) -> None:
        """Note that the job waits for a stage or, if `calling`, for the answer of what the stage needs."""
        self.stage, self.calling = stage, calling
        self.until = monotonic() + self.deadline.left(stage)

    def finish(self) -> None:
        """Note that all stages are done: the event loop need not watch the job any more."""
        self.until = inf

    def comes_to(self, stage: Stage) -> bool:
        """Whether that stage lies ahead, and the job is still the thread's."""
        return self.bug is None and not self.taken and _ORDER.index(stage) >= _ORDER.index(self.stage)

    @property
    def left(self) -> float:
        """Seconds until its call must have returned, or its turn must have come."""
        return self.until + _GRACE_SECONDS - monotonic()

    def take_over(self) -> bool:
        """Take the job over if its time is up, unless the thread is just changing its decisions; whether it is."""
        if self.lock.acquire(blocking=False):
            self.taken = self.left <= 0  # not before: the thread may have gone on, or finished, meanwhile
            self.lock.release()
        return self.taken


class Lane:
    """Threads for jobs; for one event loop. `walk` works on a batch, in a thread."""

    def __init__(self, name: str, walk: Callable[[Sequence[Job]], None]) -> None:
        self._walk = walk
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._waiting: deque[Job] = deque()
        self._batches: list[list[Job]] = []  # in threads
        self._since = 0.0  # when the newest batch began
        self._second: asyncio.TimerHandle | None = None

    async def put(self, job: Job) -> None:
        """Have a job worked on.

        Raises TimeoutError or NotCalled if it was taken over, during the call of its stage or before it, or if all
        threads hang: the decisions are the caller's again.
        """
        if self._hanging >= _THREADS:
            raise NotCalled(f"all {_THREADS} threads of a lane hang")
        loop = asyncio.get_running_loop()
        job.done = loop.create_future()
        self._waiting.append(job)
        self._begin(loop)
        job.timer = loop.call_later(job.left, self._watch, job, loop)
        try:
            await job.done
        finally:
            job.timer.cancel()

    @property
    def busy(self) -> bool:
        """Whether a job waits or is worked on."""
        return bool(self._waiting or self._batches)

    @property
    def _hanging(self) -> int:
        """Threads whose jobs were all taken over."""
        return sum(all(job.taken for job in batch) for batch in self._batches)

    def close(self) -> None:
        """Let the threads end, without waiting for those that hang."""
        self._pool.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            hanging = self._hanging
            at_work = len(self._batches) - hanging
            if at_work >= min(_AT_ONCE, _THREADS - hanging):
                return
            if at_work and (left := self._since + _SECOND_SECONDS - monotonic()) > 0:
                if self._second is None:
                    self._second = loop.call_later(left, self._begin_second, loop)
                return
            self._since = monotonic()
            batch: list[Job] = []
            while self._waiting and sum(len(job.decisions) for job in batch) < _LARGEST:
                batch.append(self._waiting.popleft())
            self._batches.append(batch)
            self._pool.submit(self._work, batch, loop)

    def _begin_second(self, loop: asyncio.AbstractEventLoop) -> None:
        self._second = None
        self._begin(loop)

    def _work(self, batch: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._walk(batch)
        except Exception as bug:
            for job in batch:
                job.bug = job.bug or bug
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(self._over, batch, loop)

    def _over(self, batch: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        self._batches.remove(batch)
        for job in batch:
            if job.done.done():
                continue
            if job.bug is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(job.bug)
        self._begin(loop)

    def _watch(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        if job.done.done():
            return
        if job.bug is not None:
            job.taken = True
            job.done.set_exception(job.bug)
        elif not job.take_over():
            job.timer = loop.call_later(max(job.left, _SOON_SECONDS), self._watch, job, loop)
        else:
            late = TimeoutError(f"the stage {job.stage} did not end in time")
            job.done.set_exception(late if job.calling else NotCalled(f"before the stage {job.stage}", late=True))
            if job in self._waiting:
                self._waiting.remove(job)
            self._begin(loop)
