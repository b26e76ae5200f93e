"""What the probes are told.

    GET /health/live      200 while the event loop turns; otherwise the pod should be restarted
    GET /health/ready     200 while requests may come: warmed up, not draining, the decision log's thread alive
    GET /health/startup   200 once warmed up

A store or an arm that does not answer leaves the router ready: it answers with the default action then, and taking all
replicas out of service at once would help nobody. The body says what does not answer:

    {"ready": true, "parts": {"ledger": "ok", "features": "ok", "challenger": "no answer: TimeoutError"}}
"""

from __future__ import annotations

from time import monotonic
from typing import Any

_STALE_SECONDS = 30.0  # without a sign of life, the event loop hangs


class Health:
    """Collects what the parts report.

    Attributes:
        parts: Part -> "ok", or what is wrong with it.
        started: The warm-up is over.
        draining: The end has begun.
    """

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.started = False
        self.draining = False
        self._tick = monotonic()

    def tick(self) -> None:
        """The event loop turns."""
        self._tick = monotonic()

    def report(self, part: str, error: Exception | None = None) -> None:
        """A part answered, or did not."""
        self.parts[part] = "ok" if error is None else f"no answer: {type(error).__name__}"  # more is in the log

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether the event loop turns, and the probe's body."""
        quiet = monotonic() - self._tick
        return quiet < _STALE_SECONDS, {"seconds_since_housekeeping": round(quiet, 1)}

    def ready(self, log_alive: bool) -> tuple[bool, dict[str, Any]]:
        """Whether requests may come, and the probe's body.

        Args:
            log_alive: Whether the decision log can still be written.
        """
        good = self.started and not self.draining and log_alive
        parts = {**self.parts, "decision_log": "ok" if log_alive else "its thread has ended"}
        return good, {"ready": good, "draining": self.draining, "parts": parts}
