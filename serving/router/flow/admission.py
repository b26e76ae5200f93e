"""Limits the requests in flight, so that those admitted are answered completely and in time, on any hardware.

By Little's law, `requests inside = answers a second * seconds inside`. So the limit follows latency, as in TCP Vegas
(1995): an answer faster than the target latency raises the limit, and a slower one lowers it, in proportion to the
difference. A late answer is a congestion event, which cuts the limit, as in TCP Reno (1990). If a host stalls, all
requests inside are late at any limit, so late answers within one deadline count as one event. The limit rises only
while it is used.

The right margin between target and deadline depends on the variance of latencies, which differs between hosts. So the
target tracks a quantile (Robbins and Monro, 1951): an event lowers it, and answers in time raise it slightly. It
settles at the value at which one event occurs in `limit * _TARGET_CUT / _TARGET_RISE` answers. If an answer has a
fallback because a part is broken, it changes neither the limit nor the target.

If the limit is reached, a request waits in a queue for at most a part of the deadline. If the queue is so long that the
request would wait longer, the router refuses it at once (`full`). The HTTP connection checks this before it creates a
task for the request.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from time import perf_counter

from serving.router.ops.metrics import Stage

_INITIAL = 8
_STEP = 0.6  # rise of the limit after an answer with latency 0
_CUT = 0.4
_TARGET = 0.5  # initial target latency, as a share of the deadline
_LOWEST_TARGET, _HIGHEST_TARGET = 0.25, 0.6
_TARGET_CUT = 0.1
_TARGET_RISE = 0.001  # rise of the target per `limit` answers in time
PATIENCE = 0.15  # longest wait in the queue, share of the deadline
_REFUSAL = 0.5  # share of the deadline after which a refusal is sent
_MEMORY = 0.05  # weight of the newest answer in the mean latency
_STALE = 100.0  # after this many deadlines without a request, the state is reset
_MOST_WAITING = 512
# Each stage must end before this share of the deadline.
_ENDS: dict[Stage, float] = {"features": 0.65, "model": 0.8, "ledger": 0.85, "log": 0.9}
_LOG_NEEDS = 0.05  # the log always gets this share


class Saturated(RuntimeError):
    """Raised if the router can't accept another request now."""


class Deadline:
    """The deadline of a request, `seconds` after its arrival."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.arrived = perf_counter()
        self.late = False  # whether a stage exceeded its time limit
        self.failed = False  # whether a store or an arm was broken

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self.arrived

    def left(self, stage: Stage) -> float:
        """Return the seconds left for a stage. The stage must not start if the result is 0 or less."""
        left = _ENDS[stage] * self._seconds - self.elapsed()
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left


CURRENT: ContextVar[Deadline | None] = ContextVar("CURRENT", default=None)
"""Deadline of the request that is handled in the current context."""


class Admission:
    """Limits the number of requests in flight in one event loop, to at most `most`."""

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(min(most, _INITIAL))
        self.inside = 0  # number of requests in flight
        self.coming = 0  # arrived requests that have not called `admit` yet
        self.target = _TARGET * seconds  # target latency, seconds
        self._most = most
        self._seconds = seconds
        self._mean = 0.0  # mean latency of recent answers, seconds
        self._event_ends = 0.0  # until then, late answers don't cut the limit again
        self._left = 0.0  # when the last answer was sent
        self.refusal_seconds = _REFUSAL * seconds  # delays a refusal, because callers may retry at once
        self._patience = PATIENCE * seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether a new request would be refused."""
        ahead = len(self._waiting) + self.coming - max(int(self.limit) - self.inside, 0)
        if ahead < 0:
            return False
        return ahead >= _MOST_WAITING or (ahead + 1) * self._mean > self._patience * int(self.limit)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Wait until the request is admitted, and count it meanwhile; raises Saturated."""
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
            with suppress(ValueError):
                self._waiting.remove(turn)
            if not turn.cancelled():  # timed out, but just admitted: undo the admission
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
        crowded = request.late and self.inside > 1  # a single request is not late because of load
        if request.failed or (self.inside < self.limit / 2 and not crowded):
            return
        if not request.late:
            self.target = min(self.target * (1 + _TARGET_RISE / self.limit), _HIGHEST_TARGET * self._seconds)
            rise = _STEP * (1 - min(seconds, self._seconds) / self.target)
            self.limit = min(
                self._most, max(1.0, self.limit + max(rise, -_CUT))
            )  # slow answers cut less than late ones
        elif self._left >= self._event_ends:
            self._event_ends = self._left + self._seconds
            self.target = max(self.target * (1 - _TARGET_CUT), _LOWEST_TARGET * self._seconds)
            self.limit = max(1.0, self.limit * (1 - _CUT))
