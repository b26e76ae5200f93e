"""What the probes are told, and it is true.

    GET /health/live      200 while the event loop turns and the housekeeping comes round: else restart the pod
    GET /health/ready     200 while requests are welcome: warmed up, not draining, the decision log's thread alive
    GET /health/startup   200 once warmed up

A store or an arm that is away does not make the router unready: it answers with the default action then, which is what
it is for, and taking all replicas out of service at once would help nobody. The body says what is away:

    {"ready": true, "parts": {"ledger": "ok", "features": "ok", "challenger": "no answer: TimeoutError"}}
"""

from __future__ import annotations

import time
from typing import Any

_STALE_SECONDS = 30.0  # without housekeeping: the loop hangs


class Health:
    """Gathers what the parts report.

    Attributes:
        parts: Part -> "ok", or what is wrong with it.
        started: The warm-up is over.
        draining: The end has begun.
    """

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.started = False
        self.draining = False
        self._tick = time.monotonic()

    def tick(self) -> None:
        """The housekeeping came round."""
        self._tick = time.monotonic()

    def report(self, part: str, error: Exception | None = None) -> None:
        """A part answered, or did not."""
        self.parts[part] = "ok" if error is None else f"no answer: {type(error).__name__}"  # more is in the log

    def live(self) -> tuple[bool, dict[str, Any]]:
        """See the module."""
        quiet = time.monotonic() - self._tick
        return quiet < _STALE_SECONDS, {"seconds_since_housekeeping": round(quiet, 1)}

    def ready(self, log_alive: bool) -> tuple[bool, dict[str, Any]]:
        """See the module."""
        good = self.started and not self.draining and log_alive
        parts = {**self.parts, "decision_log": "ok" if log_alive else "its thread has ended"}
        return good, {"ready": good, "draining": self.draining, "parts": parts}
