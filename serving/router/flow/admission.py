"""Limits the requests in flight to as many as are answered in full and in time, on any machine.

By Little's law, `requests inside = answers a second * seconds inside`. So the limit follows latency, as in TCP Vegas
(1995): an answer below the target latency raises it, one above lowers it, in proportion to the difference. A late
answer is a congestion event, which cuts the limit, as in TCP Reno (1990). If a machine stalls, all requests inside are
late together, at any limit: so late answers within one deadline are one event. The limit rises only while it is used.

How far the target must lie before the deadline depends on the variance of latencies, which differs between machines. So
the target tracks a quantile (Robbins and Monro, 1951): an event lowers it, and answers in time raise it a little, until
one event comes for `_TARGET_CUT / _TARGET_RISE` answers for each request inside. An answer that lacks something because
a part is broken counts for neither.

A request that finds no room waits in turn for a part of the deadline. If so many wait that it would wait longer, it is
refused at once (`full`, which the HTTP connection reads before a request becomes a task).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from time import perf_counter

from serving.router.ops.metrics import Stage

_INITIAL = 8  # the limit at the start
_STEP = 0.6  # requests, for an answer that took no time at all
_CUT = 0.4  # of the limit, for a congestion event
_TARGET = 0.5  # in deadlines, at the start
_LOWEST_TARGET, _HIGHEST_TARGET = 0.25, 0.6
_TARGET_CUT = 0.1  # of the target, for a congestion event
_TARGET_RISE = 0.001  # of the target, for as many answers in time as there are requests inside
PATIENCE = 0.15  # in deadlines: how long a request waits for room
_REFUSAL = 0.5  # in deadlines
_MEMORY = 0.05  # weight of an answer in the mean latency
_STALE = 100.0  # in deadlines without a request: after it, the limit learned under load is forgotten
_MOST_WAITING = 512
# When each stage must be over, as a part of the deadline. The rest is for a busy event loop, and for the way out.
_ENDS: dict[Stage, float] = {"features": 0.65, "model": 0.8, "ledger": 0.85, "log": 0.9}
_LOG_NEEDS = 0.05  # of the deadline, even if nothing is left: a decision without a record is worth little


class Saturated(RuntimeError):
    """The router has no room for one more request; try again later."""


class Deadline:
    """The time of a request that arrives now, before it waits for room; `seconds` are for all stages together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.arrived = perf_counter()
        self.late = False  # whether something was left out for lack of time ...
        self.failed = False  # ... or because a part is broken

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self.arrived

    def left(self, stage: Stage) -> float:
        """Seconds that a stage has from now on; at zero or less it can't start."""
        left = _ENDS[stage] * self._seconds - self.elapsed()
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left


CURRENT: ContextVar[Deadline | None] = ContextVar("CURRENT", default=None)
"""Of the request of this context."""


class Admission:
    """Counts requests, `most` in flight, with a deadline of `seconds` for an answer; for one event loop."""

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(min(most, _INITIAL))  # of the requests in flight now
        self.inside = 0
        self.coming = 0  # requests whose heads have come; of many at once, only as many as find room go on
        self.target = _TARGET * seconds  # of the mean latency
        self._most = most
        self._seconds = seconds
        self._mean = 0.0  # latency of recent answers, seconds
        self._event_ends = 0.0  # until when late answers belong to the last congestion event
        self._left = 0.0  # when the last answer left
        self.refusal_seconds = _REFUSAL * seconds  # until a refusal is sent: callers may retry at once
        self._patience = PATIENCE * seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether one more request would be refused."""
        ahead = len(self._waiting) + self.coming - max(int(self.limit) - self.inside, 0)
        if ahead < 0:
            return False
        return ahead >= _MOST_WAITING or (ahead + 1) * self._mean > self._patience * int(self.limit)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Work on a request that arrived just now, or raise Saturated."""
        request = Deadline(self._seconds)
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
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            with suppress(ValueError):  # `_admit_next` may have dropped it
                self._waiting.remove(turn)
            if not turn.cancelled():  # it was admitted at this very moment
                self.inside -= 1
                self._admit_next()
            if isinstance(error, TimeoutError):
                raise Saturated(f"{self.inside} requests are at work") from None
            raise

    def _admit_next(self) -> None:
        while self._waiting and self.inside < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)

    def _learn(self, request: Deadline, seconds: float) -> None:
        self._mean += _MEMORY * (seconds - self._mean)
        crowded = request.late and self.inside > 1  # one alone is late for other reasons than load
        if request.failed or (self.inside < self.limit / 2 and not crowded):
            return
        if not request.late:
            self.target = min(self.target * (1 + _TARGET_RISE / self.limit), _HIGHEST_TARGET * self._seconds)
            rise = _STEP * (1 - min(seconds, self._seconds) / self.target)
            self.limit = min(self._most, max(1.0, self.limit + max(rise, -_CUT)))  # a round of answers falls no further
        elif self._left >= self._event_ends:
            self._event_ends = self._left + self._seconds
            self.target = max(self.target * (1 - _TARGET_CUT), _LOWEST_TARGET * self._seconds)
            self.limit = max(1.0, self.limit * (1 - _CUT))
