"""What surrounds every stage of a decision: its end within the deadline, a pause for a part that keeps failing, drills.

A stage may use whatever is left before the deadline, but for the little that the later ones need when they are quick:
on a busy machine any stage may be held up for a moment, and seldom all of them.

A part that fails every time is not asked for a moment. Otherwise each decision of an arm that hangs would wait until
the model's time is over, and a router with nothing to do would refuse requests (`admission.py`). So they get the
default action at once, and now and then one request finds out whether the part answers again.
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
    """Starts when a request arrived or, if nobody counts it, when it is made.

    Args:
        seconds: For all stages together.
        request: What is counted; it is told if something is left out for lack of time.
    """

    def __init__(self, seconds: float, request: AdmittedRequest | None = None) -> None:
        self._seconds = seconds
        self._request = request
        self._arrived = request.arrived if request else perf_counter()

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return perf_counter() - self._arrived

    def left(self, stage: metrics.Stage) -> float:
        """Seconds that a stage has from now on; zero or less: it can't start."""
        left = _ENDS[stage] * self._seconds - self.elapsed()
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left

    def missed(self) -> None:
        """Something is left out for lack of time."""
        if self._request is not None:
            self._request.late = True


class Stages:
    """Runs the stages of decisions, in whatever thread.

    Args:
        health: Is told which parts answer.
        drills: Faults that people inject.
    """

    def __init__(self, health: Health, drills: Drills) -> None:
        self._health = health
        self._drills = drills
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    @contextmanager
    def run(self, stage: metrics.Stage, seconds: float, part: str | None, waiting: Callable[[], int]) -> Iterator[None]:
        """Run a stage, with the faults of the drills in force.

        Args:
            stage: Name of the stage.
            seconds: That it may take.
            part: What the stage calls, if health is told of it. If that keeps failing, it is not called for a moment.
                None: only a stage that does not end in time is a failure, since the rest are answers.
            waiting: How many requests it still works for; of the others `failed` was told.

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
            if perf_counter() - start > seconds:  # whatever it says by now
                fault = TimeoutError(f"the stage {stage} did not end in time")
            if fault is not None:
                self.failed(stage, part, fault, waiting())
            else:
                if part is not None:
                    self._health.report(part)
                self._breakers[part or stage].report(True)

    def failed(self, stage: metrics.Stage, part: str | None, error: Exception, requests: int) -> None:
        """Count requests of a stage that failed, or that do not wait for it any longer (TimeoutError); as in `run`."""
        if part is not None:
            self._health.report(part, error)
        self._breakers[part or stage].report(part is None and not isinstance(error, TimeoutError), requests)


class Breaker:
    """Counts the failures of one part."""

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

    def report(self, answered: bool, requests: int = 1) -> None:
        """Count whether the part answered, and how many requests."""
        if answered:
            self._failures = 0
            return
        if not self._failures and requests:
            self._since = monotonic()
        self._failures += requests
