"""One deadline for a decision, and the latest moment at which each stage has to be over.

A stage that is quick leaves its time to the next ones; a stage that is slow can't take what the later ones need.
"""

from __future__ import annotations

import time
from typing import Literal

from serving.router.flow.admission import CURRENT

Stage = Literal["features", "model", "ledger", "log"]

# The rest is for what a busy event loop adds to each stage, and for the answer's way out.
_ENDS: dict[Stage, float] = {"features": 0.3, "model": 0.6, "ledger": 0.72, "log": 0.8}
_LOG_NEEDS = 0.08  # of the deadline, even if nothing is left: a decision without a record is worth little


class Deadline:
    """Starts when the request arrived, or else when it is made.

    Args:
        seconds: For all stages together.
    """

    def __init__(self, seconds: float) -> None:
        now = time.perf_counter()
        request = CURRENT.get()
        self._arrived = request.arrived if request else now
        # Whoever had to wait for room has less for all stages, and not nothing for the first.
        self._seconds = max(seconds - (now - self._arrived), 0.0)
        self._start = now

    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._arrived

    def left(self, stage: Stage) -> float:
        """Seconds that a stage has from now on; zero or less: it can't start."""
        left = _ENDS[stage] * self._seconds - (time.perf_counter() - self._start)
        return max(left, _LOG_NEEDS * self._seconds) if stage == "log" else left
