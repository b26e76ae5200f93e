"""Answers the health probes.

    GET /health/live      200 while the event loop responds; otherwise the pod should be restarted
    GET /health/ready     200 while requests can be answered: started, not shutting down, the log's thread alive

Until decisions can be made, `ready` answers 503 with the reason, such as a missing feature registry or a long decision
log. A restart would not help, so `live` answers 200.

If a store or an arm does not answer, the router stays ready and takes the default action. Otherwise, all replicas would
be taken out of service at once. The body names the part that does not answer:

    {"ready": true, "parts": {"ledger": "ok", "challenger": "no answer for 12 s: TimeoutError"},
     "problems": {"challenger": [{"code": "no-answer", ...}]}, "experiments": {"spring": "5f1c3a9e"}}
"""

from collections.abc import Callable, Mapping
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from mtorl.runtime.message import Message
from serving.router import messages

_STALE_SECONDS = 30.0  # if there is no tick for so long, the event loop counts as hanging


class Fault(NamedTuple):
    """The last error of a part that does not answer, and when the part first failed (`time.monotonic`)."""

    since: float
    error: Exception

    @property
    def seconds(self) -> float:
        """Seconds since the first failure."""
        return monotonic() - self.since


class Health:
    """The health of stores, arms and other parts, as reported by the code that calls them."""

    def __init__(self) -> None:
        self.waiting_for: Message | None = messages.STARTING()  # reason why no decision can be made yet, or None
        self.draining = False  # whether the router shuts down
        self.experiments: Mapping[str, str] = {}  # experiment -> version that the router applies, including its budgets
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
        """The problems of each part, by the part's name. A part without problems has an empty tuple."""
        answers = {
            part: (messages.NO_ANSWER(seconds=fault.seconds, cause=type(fault.error).__name__),) if fault else ()
            for part, fault in dict(self._faults).items()  # copied, because threads may add items meanwhile
        }
        return answers | {part: notes for part, notes in dict(self._notes).items() if not answers.get(part)}

    @property
    def parts(self) -> dict[str, str]:
        """The problems of each part as one text, by the part's name; "ok" if it has none."""
        return {part: "; ".join(problems) or "ok" for part, problems in self.problems.items()}

    def tick(self) -> None:
        """Record that the event loop responds."""
        self._tick = monotonic()

    def report(self, part: str, error: Exception | None = None) -> None:
        """Record the result of a call of a part: an answer, or the error with which the call has failed."""
        now = self._heard[part] = monotonic()
        before = self._faults.get(part)
        self._faults[part] = Fault(before.since if before else now, error) if error else None

    def note(self, part: str, *problems: Message) -> None:
        """Replace the problems of a part that answers. Without `problems`, the part is ok."""
        self._notes[part] = problems

    def fault(self, part: str) -> Fault | None:
        """Return the reason why a part does not answer; None if it answers."""
        return self._faults.get(part)

    def quiet(self, part: str) -> float:
        """Return the seconds since the last call of a part was reported, successful or not."""
        return monotonic() - self._heard.get(part, -inf)

    def forget(self, part: str) -> None:
        """Delete all reports on a part that was removed or replaced."""
        for known in (self._faults, self._heard, self._notes):
            known.pop(part, None)

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the event loop responds, and the body of the liveness probe."""
        quiet = monotonic() - self._tick
        return quiet < _STALE_SECONDS, {"seconds_since_housekeeping": round(quiet, 1)}

    def ready(self, log_alive: Callable[[], bool]) -> tuple[bool, dict[str, Any]]:
        """Return whether requests can be answered, and the body of the readiness probe."""
        if (waits := self.waiting_for) is not None:
            return False, {"ready": False, "waiting_for": waits, "problems": {"router": [waits.body]}}
        if not (alive := log_alive()):
            self.note("decision_log", messages.LOG_ENDED())
        good, parts = alive and not self.draining, {"decision_log": "ok"} | self.parts
        coded = {part: [one.body for one in problems] for part, problems in self.problems.items() if problems}
        about = {"draining": self.draining, "parts": parts, "problems": coded, "experiments": dict(self.experiments)}
        return good, {"ready": good, **about}
