"""Surrounds every stage of a decision: time limit, circuit breaker, drills.

A stage may use what is left before the deadline, except for the little that the later stages need: on a busy machine
any stage may be held up for a moment, and seldom all of them.

If a part fails every time, its circuit breaker opens: decisions take the default action at once, and now and then one
request finds out whether the part answers again. Otherwise each decision of an arm that hangs would wait until the
model's time is over, and an idle router would refuse requests (`admission.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

from serving.router.flow.admission import AdmittedRequest
from serving.router.flow.drills import Drills
from serving.router.ops import metrics
from serving.router.ops.health import Health

# When each stage must be over, as a part of the deadline. The rest is for a busy event loop, and for the way out.
_ENDS: dict[metrics.Stage, float] = {"features": 0.65, "model": 0.8, "ledger": 0.85, "log": 0.9}
_LOG_NEEDS = 0.05  # of the deadline, even if nothing is left: a decision without a record is worth little

FAILURES = 20  # in a row until the circuit breaker opens ...
SILENT_SECONDS = 0.25  # ... if they lasted as long: one bad moment makes many fail together
_PAUSE_SECONDS = 0.25  # between the requests through an open circuit breaker


class NoTimeLeft(RuntimeError):
    """The deadline does not allow the stage to start."""


class LeftAlone(RuntimeError):
    """The part's circuit breaker is open."""


class Deadline:
    """Starts when a request arrived or, without one, now; `seconds` are for all stages together."""

    def __init__(self, seconds: float, request: AdmittedRequest | None = None) -> None:
        self._seconds = seconds
        self._request = request
        self._arrived = request.arrived if request else perf_counter()

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self._arrived

    def left(self, stage: metrics.Stage) -> float:
        """Seconds that a stage has from now on; at zero or less it can't start."""
        left = _ENDS[stage] * self._seconds - self.elapsed()
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left

    def missed(self) -> None:
        """Mark the request as late: something is left out for lack of time."""
        if self._request is not None:
            self._request.late = True


class Stages:
    """Runs the stages of decisions; for any thread."""

    def __init__(self, health: Health, drills: Drills) -> None:
        self._health = health
        self._drills = drills
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    @contextmanager
    def run(self, stage: metrics.Stage, seconds: float, part: str | None, waiting: Callable[[], int]) -> Iterator[None]:
        """Run a stage, with the faults of the drills in force.

        The circuit breaker of a `part`, which health reports, counts every exception. Without a part, only a timeout is
        a failure, since other exceptions are answers. `waiting` requests were not taken over; `failed` has counted the
        others.

        Raises:
            LeftAlone: The stage does not start.
            TimeoutError: It took too long.
        """
        if not self._breakers[part or stage].lets_through():
            raise LeftAlone(f"{part or stage} failed too often: left alone for a moment")
        start = perf_counter()
        fault: Exception | None = None
        try:
            self._drills.inject(stage, seconds)
            yield
        except Exception as error:
            fault = error
            raise
        finally:
            if perf_counter() - start > seconds:  # whatever it answers by now
                fault = TimeoutError(f"the stage {stage} did not end in time")
            if fault is not None:
                self.failed(stage, part, fault, waiting())
            else:
                if part is not None:
                    self._health.report(part)
                self._breakers[part or stage].report(True)

    def failed(self, stage: metrics.Stage, part: str | None, error: Exception, requests: int) -> None:
        """Count requests of a stage that failed, or that were taken over (TimeoutError); as in `run`."""
        if part is not None:
            self._health.report(part, error)
        self._breakers[part or stage].report(part is None and not isinstance(error, TimeoutError), requests)


class Breaker:
    """The circuit breaker of one part."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # the first failure
        self._ask_again = 0.0

    def lets_through(self) -> bool:
        """Whether this request may call the part."""
        now = monotonic()
        if self._failures < FAILURES or now < self._since + SILENT_SECONDS:
            return True
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool, requests: int = 1) -> None:
        """Count requests that the part answered or failed."""
        if answered:
            self._failures = 0
            return
        if not self._failures and requests:
            self._since = monotonic()
        self._failures += requests
