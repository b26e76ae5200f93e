"""How many requests may be at work at once: as many as are answered in time, and never more than a fixed number.

Additive increase, multiplicative decrease, as TCP does it: an answer in good time raises the limit a little, one that
took too long lowers it by a tenth. Who finds no room waits for it, in turn and for a part of the deadline; then, or if
too many wait already, it is sent away. So bursts are taken, work that is inside stays within its deadline whatever the
load, and a caller that asks again at once does not keep the process busy with refusals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

_LEAST = 4  # of the limit: a fault that makes everything slow must not lock everybody out
_LATE = 1.25  # deadlines: an answer that a slow part held up until the deadline is no overload
_GOOD = 0.5  # of the deadline: an answer before it raises the limit
_FALL = 0.9  # what a late answer leaves of the limit
_PATIENCE = 0.4  # of the deadline: how long to wait for room
_MOST_WAITING = 512


class Saturated(RuntimeError):
    """There is no room for one more; come again later."""


class Admission:
    """Counts who is inside. For one event loop.

    Args:
        most: The limit's upper bound, and where it starts.
        seconds: When an answer is late.

    Attributes:
        limit: How many may be inside now.
        inside: How many are.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(most)
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
        start = perf_counter()
        try:
            yield
        finally:
            self.inside -= 1
            self._learn(start, perf_counter())
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

    def _learn(self, start: float, end: float) -> None:
        if end - start > _LATE * self._seconds:
            # All that were inside together are late together: that is one sign of overload and not fifty.
            if start >= self._fell:
                self.limit, self._fell = min(self._most, max(_LEAST, self.limit * _FALL)), end
        elif end - start < _GOOD * self._seconds:
            self.limit = min(self._most, self.limit + 1 / self.limit)
