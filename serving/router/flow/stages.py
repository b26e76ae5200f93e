"""What surrounds every stage of a decision: its end within the deadline, a pause for a part that keeps failing, drills.

A stage may use whatever is left before the deadline, but for the little that the later ones need when they are quick:
on a busy machine any stage may be held up for a moment, and seldom all of them.

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
from serving.router.ops import metrics, tracing
from serving.router.ops.health import Health

# When each stage has to be over, as a part of the deadline: late enough to use what the stages before it left, and so
# early that those after it can still be quick. The rest is for what a busy event loop adds, and for the way out.
_ENDS: dict[metrics.Stage, float] = {"features": 0.65, "model": 0.8, "ledger": 0.85, "log": 0.9}
_LOG_NEEDS = 0.05  # of the deadline, even if nothing is left: a decision without a record is worth little

FAILURES = 20  # in a row until a part is left alone ...
SILENT_SECONDS = 0.25  # ... if they lasted as long: those that one bad moment holds up fail together
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
        self._seconds = seconds
        request = CURRENT.get()
        self._arrived = request.arrived if request else perf_counter()

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self._arrived

    def left(self, stage: metrics.Stage) -> float:
        """Seconds that a stage has from now on; zero or less: it can't start."""
        left = _ENDS[stage] * self._seconds - self.elapsed()
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
        self,
        stage: metrics.Stage,
        deadline: Deadline,
        arms: Collection[str],
        part: str | None = None,
        traits: tracing.Traits | None = None,
    ) -> AsyncIterator[None]:
        """Run a stage: in its time, measured, traced, with the faults of the drills in force.

        Args:
            stage: Name of the stage.
            deadline: Deadline of the request.
            arms: Arms for which the stage works.
            part: What the stage calls, if health is told of it. If that keeps failing, it is not called for a moment.
                None: only a stage that does not end in time is a failure, since the rest are answers.
            traits: What its span says.

        Raises:
            NoTimeLeft: The stage does not start.
            LeftAlone: The stage does not start.
            TimeoutError: It took too long.
        """
        with tracing.span(stage, traits):
            left = deadline.left(stage)
            if left <= 0:
                _mark_late()
                raise NoTimeLeft(f"before the stage {stage}")
            breaker = self._breakers[part or stage]
            if not breaker.lets_through():
                raise LeftAlone(f"{part or stage} failed too often: left alone for a moment")
            try:
                with metrics.stage(stage, *arms):
                    async with asyncio.timeout(left):
                        await self._drills.inject(stage)
                        yield
            except Exception as error:
                late = isinstance(error, TimeoutError)
                if late:
                    _mark_late()
                if part is not None:
                    self._health.report(part, error)
                breaker.report(part is None and not late)
                raise
            if part is not None:
                self._health.report(part)
            breaker.report(True)


def _mark_late() -> None:
    """Tell admission that this context's request lacks something for want of time."""
    if (request := CURRENT.get()) is not None:
        request.late = True


class Breaker:
    """Counts the failures of one part. For one event loop."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # the first of them
        self._ask_again = 0.0

    def lets_through(self) -> bool:
        """Whether this request may ask the part."""
        now = monotonic()
        if self._failures < FAILURES or now < self._since + SILENT_SECONDS:
            return True
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool) -> None:
        """Count whether the part answered."""
        if answered:
            self._failures = 0
            return
        if not self._failures:
            self._since = monotonic()
        self._failures += 1
