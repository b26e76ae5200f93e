"""Lanes: the threads of an arm, for an event loop that must not wait.

A thread takes all decisions that wait in its lane as one batch. So one read of features, one POST, one transaction and
one sync serve many requests, and a request costs one hop into a thread and one back. Each arm has a lane: an arm that
hangs holds up its own users alone.

A thread can't be stopped. If all its decisions were taken over (`PendingDecision.take_over`), it hangs, and another
thread takes its place in the lane.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple

from serving.router.flow.pending_decision import PendingDecision

_AT_ONCE = 2  # batches in a lane ...
_SECOND_SECONDS = 0.01  # ... the second one only if the first takes longer: large batches are cheaper
_THREADS = 10  # of a lane; more than hang at a time (`parts.py`)
_LARGEST = 64  # decisions in a batch, about: a few milliseconds of a model


class _Batch(NamedTuple):
    decisions: list[PendingDecision]
    done: list[asyncio.Future[Exception | None]]

    @property
    def hangs(self) -> bool:
        return all(decision.taken_over for decision in self.decisions)


class Lane:
    """Threads for decisions; for one event loop. `work` takes a batch through its stages, in a thread."""

    def __init__(self, name: str, work: Callable[[Sequence[PendingDecision]], None]) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._waiting: deque[tuple[Sequence[PendingDecision], asyncio.Future[Exception | None]]] = deque()
        self._batches: list[_Batch] = []  # in threads
        self._since = 0.0  # when the newest batch began
        self._second: asyncio.TimerHandle | None = None

    def put(self, decisions: Sequence[PendingDecision]) -> asyncio.Future[Exception | None]:
        """Have a request's decisions worked on; the result is a bug that the thread ended with."""
        done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((decisions, done))
        self.begin()
        return done

    def begin(self) -> None:
        """Start a batch of what waits, if a thread may take it."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            hanging = sum(batch.hangs for batch in self._batches)
            at_work = len(self._batches) - hanging
            if at_work >= min(_AT_ONCE, _THREADS - hanging):
                return
            if at_work and (left := self._since + _SECOND_SECONDS - monotonic()) > 0:
                if self._second is None:
                    self._second = loop.call_later(left, self._begin_second)
                return
            batch = _Batch([], [])
            while self._waiting and len(batch.decisions) < _LARGEST:
                decisions, done = self._waiting.popleft()
                if not decisions[0].taken_over:
                    batch.decisions.extend(decisions)
                    batch.done.append(done)
            if batch.decisions:
                self._since = monotonic()
                self._batches.append(batch)
                try:
                    self._pool.submit(self._run, batch, loop)
                except RuntimeError as error:  # the process can't have one more thread
                    self._end(batch, error)

    @property
    def busy(self) -> bool:
        """Whether decisions wait or are worked on."""
        return bool(self._waiting or self._batches)

    def close(self) -> None:
        """Let the threads end, without waiting for those that hang."""
        self._pool.shutdown(wait=False)

    def _begin_second(self) -> None:
        self._second = None
        self.begin()

    def _run(self, batch: _Batch, loop: asyncio.AbstractEventLoop) -> None:
        bug = None
        try:
            self._work(batch.decisions)
        except Exception as error:
            bug = error
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(self._over, batch, bug)

    def _over(self, batch: _Batch, bug: Exception | None) -> None:
        self._end(batch, bug)
        self.begin()

    def _end(self, batch: _Batch, bug: Exception | None) -> None:
        if batch in self._batches:  # the pool keeps one that it had no thread for, and works on it later
            self._batches.remove(batch)
            for done in batch.done:
                done.set_result(bug)
