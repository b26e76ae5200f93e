"""How many requests may be at work at once: as many as are answered in time, and never more than a fixed number.

Additive increase, multiplicative decrease, as TCP does it: an answer in good time raises the limit a little, if the
limit is used; one that took too long lowers it by a tenth. An answer that took almost half of the deadline, or came in
time only because something was left out (the default action), is a strain: it raises nothing, and where others wait for
room it lowers the limit a little, down to a level that a slow store does not push below. Who finds no room waits for
it, in turn and for a part of the deadline; then, or if too many wait already, it is sent away. So bursts are taken,
work that is inside stays within its deadline whatever the load, and a caller that asks again at once does not keep the
process busy with refusals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import perf_counter

_START = 8  # where the limit starts, and what strain alone leaves of it
_LEAST = 4  # what late answers leave of it: a fault that makes everything slow must not lock everybody out
_LATE = 1.25  # deadlines: an answer that a slow part held up until the deadline is no overload
_GOOD = 0.4  # of the deadline: an answer before it raises the limit
_SLOW = 0.45  # of the deadline: one after it leaves too little for what it waited before, and for a bad moment
_FALL = 0.9  # what a late answer leaves of the limit
_STRAIN = 0.99  # what a strained one does
_PATIENCE = 0.2  # of the deadline: how long to wait for room
_MOST_WAITING = 512


class Saturated(RuntimeError):
    """There is no room for one more; come again later."""


class Visit:
    """A request that is inside."""

    def __init__(self) -> None:
        self.strained = False  # something was left out to be in time


VISIT: ContextVar[Visit | None] = ContextVar("VISIT", default=None)
"""That of the request of this context."""


class Admission:
    """Counts who is inside. For one event loop.

    Args:
        most: The limit's upper bound.
        seconds: When an answer is late.

    Attributes:
        limit: How many may be inside now.
        inside: How many are.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(min(most, _START))
        self.inside = 0
        self._most = most
        self._seconds = seconds
        self._fell = 0.0  # when the limit was lowered last
        self._patience = _PATIENCE * seconds
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # until when, and its turn
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Be inside.

        Raises:
            Saturated: There is no room.
        """
        if self.inside < int(self.limit) and not self._waiting:
            self.inside += 1
        else:
            await self._wait()
        start, visit = perf_counter(), Visit()
        VISIT.set(visit)
        try:
            yield
        finally:
            self._learn(start, perf_counter(), visit.strained)
            self.inside -= 1
            self._call_next()

    async def _wait(self) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise Saturated(f"{self.inside} requests are at work, {len(self._waiting)} wait")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop.time() + self._patience, turn))
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._send_away)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Its caller is gone, and it got a place at that very moment.
                self.inside -= 1
                self._call_next()
            raise

    def _send_away(self) -> None:
        """Whoever has waited long enough. One timer for all: they wait equally long, and so leave in turn as well."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].done()):
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Saturated(f"{self.inside} requests are at work"))
        self._timer = loop.call_at(self._waiting[0][0], self._send_away) if self._waiting else None

    def _call_next(self) -> None:
        """Give a place that is free to whoever waits longest; it counts from now on."""
        while self._waiting and self.inside < int(self.limit):
            _, turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)

    def _learn(self, start: float, end: float, strained: bool) -> None:
        if end - start > _LATE * self._seconds:
            # All that were inside together are late together: that is one sign of overload and not fifty.
            if start >= self._fell:
                self.limit, self._fell = min(self._most, max(_LEAST, self.limit * _FALL)), end
        elif strained or end - start > _SLOW * self._seconds:
            if self._waiting and self.limit > _START:
                self.limit = max(_START, self.limit * _STRAIN)
        elif end - start < _GOOD * self._seconds and self.inside >= self.limit / 2:
            self.limit = min(self._most, self.limit + 1 / self.limit)
