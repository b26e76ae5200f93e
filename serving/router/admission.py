"""How many requests may be at work at once: as many as are answered in time, and never more than a fixed number.

Additive increase, multiplicative decrease, as TCP does it: an answer in good time raises the limit a little, if the
limit is used; one that took too long lowers it by a tenth. An answer that came in time only because something was left
out (the default action) is a strain: it raises nothing, and where others wait for room it lowers the limit a little,
down to a level that a slow store does not push below. Who finds no room waits for it, in turn and for a part of the
deadline; then, or if too many wait already, it is sent away. So bursts are taken, work that is inside stays within its
deadline whatever the load, and a caller that asks again at once does not keep the process busy with refusals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import perf_counter

_START = 16  # where the limit starts, and what strain alone leaves of it
_LEAST = 4  # what late answers leave of it: a fault that makes everything slow must not lock everybody out
_LATE = 1.25  # deadlines: an answer that a slow part held up until the deadline is no overload
_GOOD = 0.5  # of the deadline: an answer before it raises the limit
_FALL = 0.9  # what a late answer leaves of the limit
_STRAIN = 0.99  # what a strained one does
_PATIENCE = 0.3  # of the deadline: how long to wait for room
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
        self._waiting: deque[asyncio.Future[None]] = deque()

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
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(_PATIENCE * self._seconds):
                await asyncio.shield(turn)
        except BaseException as error:  # it has waited too long, or its caller is gone
            if turn.done():  # and got a place at that very moment
                self.inside -= 1
                self._call_next()
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise Saturated(f"{self.inside} requests are at work") from None
            raise

    def _call_next(self) -> None:
        """Give a place that is free to whoever waits longest; it counts from now on."""
        while self._waiting and self.inside < int(self.limit):
            self.inside += 1
            self._waiting.popleft().set_result(None)

    def _learn(self, start: float, end: float, strained: bool) -> None:
        if end - start > _LATE * self._seconds:
            # All that were inside together are late together: that is one sign of overload and not fifty.
            if start >= self._fell:
                self.limit, self._fell = min(self._most, max(_LEAST, self.limit * _FALL)), end
        elif strained:
            if self._waiting and self.limit > _START:
                self.limit = max(_START, self.limit * _STRAIN)
        elif end - start < _GOOD * self._seconds and self.inside >= self.limit / 2:
            self.limit = min(self._most, self.limit + 1 / self.limit)
