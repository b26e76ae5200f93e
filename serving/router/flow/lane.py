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
from time import monotonic
from typing import get_args

from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.stages import LeftAlone
from serving.router.ops.metrics import Stage

_AT_ONCE = 2  # batches in a lane ...
_SECOND_SECONDS = 0.01  # ... the second one only if the first takes longer: large batches are cheaper
_THREADS = 10  # of a lane: when all hang, it stands still until one returns
_LARGEST = 64  # decisions in a batch, about: a few milliseconds of a model
_GRACE_SECONDS = 0.002  # beyond a stage's end, for a thread that keeps to it
_SOON_SECONDS = 0.002  # until a job that is just being changed is checked again

_ORDER: tuple[Stage, ...] = get_args(Stage)


class TakenOver(Exception):
    """The event loop has taken a job over; `calling`: its stage's call does not return, else its turn did not come."""

    def __init__(self, calling: bool) -> None:
        super().__init__(calling)
        self.calling = calling


class Job:
    """Decisions of one request for one arm. Either a lane's thread may change them or the event loop, never both.

    Attributes:
        stage: The present or the next stage.
        bug: An exception that no stage expects.
        taken: Whether the event loop has taken the job over.
        done: Set by the lane when the thread has finished.
        timer: The lane's next check of the job.
        batch: The jobs of its thread; None: its turn has not come.
    """

    done: asyncio.Future[None]
    timer: asyncio.TimerHandle
    batch: _Batch | None = None

    def __init__(self, decisions: Sequence[PendingDecision], stage: Stage = "features") -> None:
        self.decisions = decisions
        self.deadline = decisions[0].deadline
        self.stage: Stage = stage
        self.bug: Exception | None = None
        self.taken = False
        self._until = monotonic() + self.deadline.left(stage)
        self._calling = False
        self._held = False
        self._lock = threading.Lock()

    def comes_to(self, stage: Stage) -> bool:
        """Whether that stage lies ahead, and the job is still the thread's."""
        return self.bug is None and not self.taken and _ORDER.index(stage) >= _ORDER.index(self.stage)

    def hold(self) -> bool:
        """Let the thread change the decisions; False: the job was taken over."""
        with self._lock:
            self._held = not self.taken
            return self._held

    def release(self, stage: Stage, calling: bool = False) -> None:
        """End the thread's changes before it waits for a stage, or calls what the stage needs."""
        with self._lock:
            self.stage, self._calling, self._held = stage, calling, False
            self._until = monotonic() + self.deadline.left(stage)

    @property
    def left(self) -> float:
        """Seconds until its call must return, or its turn must come."""
        return self._until - monotonic()

    def take_over(self) -> TakenOver | None:
        """Take the job over, unless the thread is just changing the decisions."""
        with self._lock:
            if self._held:
                return None
            self.taken = True
            return TakenOver(self._calling)


class _Batch(list[Job]):
    hangs = False  # all jobs were taken over, and the thread has not returned


class Lane:
    """Threads for jobs; for one event loop. `walk` works on a batch, in a thread."""

    def __init__(self, name: str, walk: Callable[[Sequence[Job]], None]) -> None:
        self._walk = walk
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._at_work = 0  # batches that do not hang
        self._since = 0.0  # when the newest batch began
        self._second: asyncio.TimerHandle | None = None
        self._hanging = 0
        self._waiting: deque[Job] = deque()

    async def put(self, job: Job) -> None:
        """Have a job worked on.

        Raises:
            TakenOver: Its time is over, and the decisions are the caller's again.
            LeftAlone: All threads hang.
        """
        if self._hanging >= _THREADS:
            raise LeftAlone(f"all {_THREADS} threads of a lane hang")
        loop = asyncio.get_running_loop()
        job.done = loop.create_future()
        self._waiting.append(job)
        self._begin(loop)
        job.timer = loop.call_later(job.left + _GRACE_SECONDS, self._look_after, job, loop)
        try:
            await job.done
        finally:
            job.timer.cancel()

    @property
    def busy(self) -> bool:
        """Whether a job waits or is worked on."""
        return bool(self._waiting or self._at_work or self._hanging)

    def close(self) -> None:
        """Let the threads end, without waiting for those that hang."""
        self._pool.shutdown(wait=False)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting and self._at_work < min(_AT_ONCE, _THREADS - self._hanging):
            if self._at_work and (left := self._since + _SECOND_SECONDS - monotonic()) > 0:
                if self._second is None:
                    self._second = loop.call_later(left, self._begin_second, loop)
                return
            self._since = monotonic()
            batch, decisions = _Batch(), 0
            while self._waiting and decisions < _LARGEST:
                job = self._waiting.popleft()
                job.batch = batch
                batch.append(job)
                decisions += len(job.decisions)
            self._at_work += 1
            self._pool.submit(self._work, batch, loop)

    def _begin_second(self, loop: asyncio.AbstractEventLoop) -> None:
        self._second = None
        self._begin(loop)

    def _work(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._walk(batch)
        except Exception as bug:
            for job in batch:
                job.bug = job.bug or bug
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(self._over, batch, loop)

    def _over(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        for job in batch:
            if job.done.done():
                continue
            if job.bug is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(job.bug)
        if batch.hangs:
            self._hanging -= 1
        else:
            self._at_work -= 1
        self._begin(loop)

    def _look_after(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        if job.done.done():
            return
        if job.bug is not None:
            job.taken = True
            job.done.set_exception(job.bug)
            return
        left = job.left + _GRACE_SECONDS
        if left > 0 or (over := job.take_over()) is None:
            job.timer = loop.call_later(max(left, _SOON_SECONDS), self._look_after, job, loop)
            return
        job.done.set_exception(over)
        if job.batch is None:
            self._waiting.remove(job)
        elif not job.batch.hangs and all(each.taken for each in job.batch):
            job.batch.hangs = True
            self._at_work -= 1
            self._hanging += 1
            self._begin(loop)
