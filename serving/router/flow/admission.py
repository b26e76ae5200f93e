"""How many requests may be worked on at once: as many as are answered in time, and never more than a fixed number.

Additive increase, multiplicative decrease, as TCP does it. An answer well within the deadline raises the limit a
little, if the limit is used; an answer after the deadline lowers it by a tenth. An answer that took almost half of the
deadline, or was in time only because it is the default action, shows strain: it raises nothing and, where requests wait
for room, lowers the limit a little, down to a level that a slow store alone does not push it below.

A request that finds no room waits in turn for a part of the deadline. Then, or if too many wait already, it is refused.
So a burst is taken, admitted work stays within its deadline whatever the load, and callers that retry at once do not
keep the process busy with refusals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import perf_counter

_INITIAL = 8  # the limit at the start, and the lowest that strain alone makes it
_LOWEST = 4  # the lowest that late answers make it: a fault that slows everything must not lock everybody out
_LATE = 1.25  # in deadlines: an answer that a slow part held up until the deadline is no sign of overload
_GOOD = 0.4  # in deadlines: an answer before it raises the limit
_SLOW = 0.45  # in deadlines: after it, too little is left for a wait beforehand and for a bad moment
_LATE_FACTOR = 0.9  # a late answer multiplies the limit by it
_STRAIN_FACTOR = 0.99  # a strained one by it
PATIENCE = 0.2  # in deadlines: how long a request waits for room
_MOST_WAITING = 512


class Saturated(RuntimeError):
    """There is no room for one more request; try again later."""


class AdmittedRequest:
    """A request that is worked on.

    Args:
        arrived: When it was read, `time.perf_counter`: its time to wait for room counts, too.

    Attributes:
        strained: Whether something was left out to be in time.
    """

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        self.strained = False


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
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(min(most, _INITIAL))
        self.inside = 0
        self._most = most
        self._seconds = seconds
        self._fell = 0.0  # when late answers last lowered the limit
        self._patience = PATIENCE * seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # when it gives up, and what wakes it
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return sum(not turn.done() for _, turn in self._waiting)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Work on a request, which arrived just now.

        Raises:
            Saturated: There is no room.
        """
        request = AdmittedRequest(perf_counter())
        if self.inside < int(self.limit) and not self._waiting:
            self.inside += 1
        else:
            await self._wait()
        start = perf_counter()
        CURRENT.set(request)
        try:
            yield
        finally:
            self._adjust(start, perf_counter(), request.strained)
            self.inside -= 1
            self._admit_next()

    async def _wait(self) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise Saturated(f"{self.inside} requests are at work, {len(self._waiting)} wait")
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

    def _adjust(self, start: float, end: float, strained: bool) -> None:
        if end - start > _LATE * self._seconds:
            # Requests that were worked on together are late together: one sign of overload and not fifty.
            if start >= self._fell:
                self.limit, self._fell = min(self._most, max(_LOWEST, self.limit * _LATE_FACTOR)), end
        elif strained or end - start > _SLOW * self._seconds:
            if self._waiting and self.limit > _INITIAL:
                self.limit = max(_INITIAL, self.limit * _STRAIN_FACTOR)
        elif end - start < _GOOD * self._seconds and self.inside >= self.limit / 2:
            self.limit = min(self._most, self.limit + 1 / self.limit)
