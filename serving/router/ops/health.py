"""Answers the health probes.

    GET /health/live      200 while the event loop responds; otherwise the pod should be restarted
    GET /health/ready     200 while requests can be answered; otherwise 503 with the reason

The router stays ready if a store or an arm does not answer. Otherwise, Kubernetes would send no requests to any of the
replicas.
"""

from collections.abc import Callable, Mapping
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from mtorl.runtime.message import Message
from serving.router import messages

_STALE_SECONDS = 30.0  # the event loop counts as hanging without a tick for so long


class Fault(NamedTuple):
    """The last error of a part, and when the part first failed (`time.monotonic`)."""

    since: float
    error: Exception

    @property
    def seconds(self) -> float:
        """Seconds since the first failure."""
        return monotonic() - self.since


class Health:
    """The health of stores, arms and other parts, as reported by their callers."""

    def __init__(self) -> None:
        self.waiting_for: Message | None = messages.STARTING()  # reason why no decision can be made yet, or None
        self.draining = False  # whether the router shuts down
        self.experiments: Mapping[str, str] = {}  # experiment -> version that the router applies
        self._tick = monotonic()
        self._faults: dict[str, Fault | None] = {}
        self._heard: dict[str, float] = {}
        self._notes: dict[str, tuple[Message, ...]] = {}

    @property
    def started(self) -> bool:
        """Whether decisions can be made."""
        return self.waiting_for is None

    @property
    def problems(self) -> dict[str, tuple[Message, ...]]:
        """The problems of each part."""
        answers = {
            part: (messages.NO_ANSWER(seconds=fault.seconds, cause=type(fault.error).__name__),) if fault else ()
            for part, fault in dict(self._faults).items()  # copied, because threads may add items meanwhile
        }
        return answers | {part: notes for part, notes in dict(self._notes).items() if not answers.get(part)}

    @property
    def parts(self) -> dict[str, str]:
        """The problems of each part as one text; "ok" if it has none."""
        return {part: "; ".join(problems) or "ok" for part, problems in self.problems.items()}

    def tick(self) -> None:
        """Record that the event loop responds."""
        self._tick = monotonic()

    def report(self, part: str, error: Exception | None = None) -> None:
        """Record a call of a part, and its error, if any."""
        now = self._heard[part] = monotonic()
        before = self._faults.get(part)
        self._faults[part] = Fault(before.since if before else now, error) if error else None

    def note(self, part: str, *problems: Message) -> None:
        """Replace the problems of a part that answers."""
        self._notes[part] = problems

    def fault(self, part: str) -> Fault | None:
        """Return the last error of a part; None if the part answers."""
        return self._faults.get(part)

    def quiet(self, part: str) -> float:
        """Return the seconds since the last call of a part was reported."""
        return monotonic() - self._heard.get(part, -inf)

    def forget(self, part: str) -> None:
        """Delete all reports on a part that was removed or replaced."""
        for known in (self._faults, self._heard, self._notes):
            known.pop(part, None)

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Return the result of the liveness probe, and its body."""
        quiet = monotonic() - self._tick
        return quiet < _STALE_SECONDS, {"seconds_since_housekeeping": round(quiet, 1)}

    def ready(self, log_alive: Callable[[], bool]) -> tuple[bool, dict[str, Any]]:
        """Return the result of the readiness probe, and its body."""
        if (waits := self.waiting_for) is not None:
            return False, {"ready": False, "waiting_for": waits, "problems": {"router": [waits.body]}}
        if not (alive := log_alive()):
            self.note("decision_log", messages.LOG_ENDED())
        good, parts = alive and not self.draining, {"decision_log": "ok"} | self.parts
        coded = {part: [one.body for one in problems] for part, problems in self.problems.items() if problems}
        about = {"draining": self.draining, "parts": parts, "problems": coded, "experiments": dict(self.experiments)}
        return good, {"ready": good, **about}
