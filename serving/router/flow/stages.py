"""What surrounds every stage of a decision: its share of the deadline, a pause for a part that keeps failing, drills.

A stage that is quick leaves its time to the later ones; a stage that is slow can't take what the later ones need.

A part that fails every time is not asked for a moment. Otherwise each decision of an arm that hangs would wait until
the model's time is over, and a router with nothing to do would refuse requests (`admission.py`). So they get the
default action at once, and now and then one request finds out whether the part answers again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from time import monotonic, perf_counter

from serving.router.flow.admission import CURRENT
from serving.router.flow.drills import Drills
from serving.router.ops import metrics
from serving.router.ops.health import Health

# When each stage has to be over, as a part of the deadline. The rest is for what a busy event loop adds to each stage,
# and for the answer's way out.
_ENDS: dict[metrics.Stage, float] = {"features": 0.3, "model": 0.6, "ledger": 0.72, "log": 0.8}
_LOG_NEEDS = 0.08  # of the deadline, even if nothing is left: a decision without a record is worth little

FAILURES = 20  # in a row until a part is left alone; under mere overload, one of so many comes in time
_PAUSE_SECONDS = 0.25  # between the requests that ask such a part


class NoTimeLeft(RuntimeError):
    """The deadline does not allow the stage to start."""


class LeftAlone(RuntimeError):
    """The part failed too often and is not asked for a moment."""


class Deadline:
    """Starts when the request of this context arrived, or else when it is made.

    Args:
        seconds: For all stages together.
    """

    def __init__(self, seconds: float) -> None:
        now = perf_counter()
        request = CURRENT.get()
        self._arrived = request.arrived if request else now
        # A request that had to wait for room has less for all stages, rather than nothing for the first.
        self._seconds = max(seconds - (now - self._arrived), 0.0)
        self._start = now

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self._arrived

    def left(self, stage: metrics.Stage) -> float:
        """Seconds that a stage has from now on; zero or less: it can't start."""
        left = _ENDS[stage] * self._seconds - (perf_counter() - self._start)
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left


class Stages:
    """Runs the stages of decisions. For one event loop.

    Args:
        seconds: Deadline of a request.
        health: Is told which parts answer.
        drills: Faults that people inject.
    """

    def __init__(self, seconds: float, health: Health, drills: Drills) -> None:
        self._seconds = seconds
        self._health = health
        self._drills = drills
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    def deadline(self) -> Deadline:
        """The deadline of the request that this context works on."""
        return Deadline(self._seconds)

    @asynccontextmanager
    async def run(
        self, stage: metrics.Stage, deadline: Deadline, arms: Collection[str], part: str | None = None
    ) -> AsyncIterator[None]:
        """Run a stage: in its time, measured, with the faults of the drills in force.

        Args:
            stage: Name of the stage.
            deadline: Deadline of the request.
            arms: Arms for which the stage works.
            part: What the stage calls. If that keeps failing, it is not called for a moment. None: it always is.

        Raises:
            NoTimeLeft: The stage does not start.
            LeftAlone: The stage does not start.
            TimeoutError: It took too long.
        """
        left = deadline.left(stage)
        if left <= 0:
            raise NoTimeLeft(f"before the stage {stage}")
        if part is not None and not self._breakers[part].lets_through():
            raise LeftAlone(f"{part} failed too often: left alone for a moment")
        try:
            with metrics.stage(stage, *arms):
                async with asyncio.timeout(left):
                    await self._drills.inject(stage)
                    yield
        except Exception as error:
            self._report(part, error)
            raise
        self._report(part)

    def _report(self, part: str | None, error: Exception | None = None) -> None:
        if part is not None:
            self._health.report(part, error)
            self._breakers[part].report(error is None)


class Breaker:
    """Counts the failures of one part. For one event loop."""

    def __init__(self) -> None:
        self._failures = 0
        self._ask_again = 0.0

    def lets_through(self) -> bool:
        """Whether this request may ask the part."""
        if self._failures < FAILURES:
            return True
        now = monotonic()
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool) -> None:
        """Count whether the part answered."""
        self._failures = 0 if answered else self._failures + 1
        if self._failures == FAILURES:
            self._ask_again = monotonic() + _PAUSE_SECONDS
