"""How many requests may be worked on at once: as many as are answered in full and in time, on any machine.

Little's law says how long answers take: `requests inside = answers a second * seconds inside`. So the limit follows
the time that answers take, and not their failures: an answer that took less than the target raises the limit, one that
took longer lowers it, each in proportion to the difference. Where the mean is the target, the limit stays; on a machine
that becomes ten times slower, or as fast again, it is at its new place after some hundreds of answers. It rises only
while it is used; it falls whenever several requests at once were too many.

How far the target has to lie before the deadline depends on how much times vary, which differs between machines. So the
target is found by counting: each answer that something was left out of for lack of time lowers it, the others raise it
a little, until `_LATE_SHARE` of the answers are late. (Tracking a quantile by such steps: Robbins and Monro, 1951.
Limits that follow measured times: TCP Vegas, 1995.) An answer that lacks something because a part is broken tells
nothing of load, and counts for neither.

A request that finds no room waits in turn for a part of the deadline, unless so many wait already that it would wait
for longer: then nothing is spent on it (`full`, which the HTTP connection asks before a request becomes a task).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import perf_counter

_INITIAL = 8  # the limit at the start
_STEP = 0.01  # of the limit, for an answer that took no time at all
_TARGET = 0.5  # in deadlines, at the start
_LOWEST_TARGET, _HIGHEST_TARGET = 0.2, 0.6
_TARGET_STEP = 0.01  # of the target, for a late answer
_LATE_SHARE = 0.004  # of the answers, in the long run
_LATE_TIME = 2.2  # in targets: what a late answer counts as, for how long it would have taken is not known
PATIENCE = 0.15  # in deadlines: how long a request waits for room
_REFUSAL = 0.5  # in deadlines: until it is told that there is none
_MEMORY = 0.05  # weight of an answer in the mean of their times
_STALE = 100.0  # in deadlines without a request: after it, what was learned under load is no longer true
_MOST_WAITING = 512


class Saturated(RuntimeError):
    """There is no room for one more request; try again later."""


class AdmittedRequest:
    """A request that is worked on.

    Args:
        arrived: When it was read, `time.perf_counter`: its time to wait for room counts, too.

    Attributes:
        late: Whether something was left out for lack of time.
        failed: Whether something was left out because a part is broken.
    """

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        self.late = False
        self.failed = False


CURRENT: ContextVar[AdmittedRequest | None] = ContextVar("CURRENT", default=None)
"""The request of this context."""


class Admission:
    """Counts requests. For one event loop.

    Args:
        most: The limit's upper bound.
        seconds: Deadline of an answer.

    Attributes:
        limit: How many requests may be worked on now.
        inside: How many are.
        target: Seconds that answers may take in the mean.
        refusal_seconds: Until a caller is told that there is no room: one that asks again at once would otherwise keep
            the process busy with refusals.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(min(most, _INITIAL))
        self.inside = 0
        self.target = _TARGET * seconds
        self._most = most
        self._seconds = seconds
        self._mean = 0.0  # seconds that answers took of late
        self._left = 0.0  # when the last of them left
        self.refusal_seconds = _REFUSAL * seconds
        self._patience = PATIENCE * seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # when it gives up, and what wakes it
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return sum(not turn.done() for _, turn in self._waiting)

    @property
    def full(self) -> bool:
        """Whether one more request would be refused: too many wait already for it to get room in time."""
        ahead = len(self._waiting)
        if not ahead and self.inside < int(self.limit):
            return False
        return ahead >= _MOST_WAITING or (ahead + 1) * self._mean > self._patience * int(self.limit)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Work on a request, which arrived just now.

        Raises:
            Saturated: There is no room.
        """
        request = AdmittedRequest(perf_counter())
        if not self.inside and request.arrived - self._left > _STALE * self._seconds:
            self.limit, self._mean = max(self.limit, min(self._most, _INITIAL)), 0.0
        if self.inside < int(self.limit) and not self._waiting:
            self.inside += 1
        elif self.full:
            await asyncio.sleep(self.refusal_seconds)
            raise Saturated(f"{self.inside} requests are at work, {len(self._waiting)} wait")
        else:
            await self._wait()
        start = perf_counter()
        CURRENT.set(request)
        try:
            yield
        finally:
            self._left = perf_counter()
            self._learn(request, self._left - start)
            self.inside -= 1
            self._admit_next()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop.time() + self._patience, turn))
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._refuse_expired)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The caller left at the very moment at which its request was admitted.
                self.inside -= 1
                self._admit_next()
            raise

    def _refuse_expired(self) -> None:
        """Refuse what has waited long enough. One timer does: all wait equally long, and so give up in turn."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].done()):
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Saturated(f"{self.inside} requests are at work"))
        self._timer = loop.call_at(self._waiting[0][0], self._refuse_expired) if self._waiting else None

    def _admit_next(self) -> None:
        """Admit what has waited longest while there is room; it counts from now on."""
        while self._waiting and self.inside < int(self.limit):
            _, turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)

    def _learn(self, request: AdmittedRequest, seconds: float) -> None:
        """Move target and limit by one answer."""
        self._mean += _MEMORY * (seconds - self._mean)
        crowded = request.late and self.inside > 1  # too many by any limit; one alone is late for other reasons
        if request.failed or (self.inside < self.limit / 2 and not crowded):
            return
        if request.late:
            seconds = _LATE_TIME * self.target
            self.target *= 1 - _TARGET_STEP
        else:
            self.target *= 1 + _TARGET_STEP * _LATE_SHARE
        self.target = min(max(self.target, _LOWEST_TARGET * self._seconds), _HIGHEST_TARGET * self._seconds)
        step = _STEP * (1 - min(seconds, self._seconds) / self.target)
        self.limit = min(self._most, max(1.0, self.limit * (1 + step)))
