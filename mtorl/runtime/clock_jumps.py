"""Computes ages that stay right when the wall clock jumps forward.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # call it regularly: records from before this time are a day old or older

A clock that is a day ahead for a moment must neither release a reservation whose cost is still to come, nor end an
experiment. So `before` subtracts a jump until `age` seconds have passed since it; by then, everything from before the
jump is at least that old. A suspension of the machine counts as a jump, because no cost could arrive meanwhile.
"""

import threading
from collections.abc import Callable

_SMALL = 10.0  # seconds: reading the clock of another machine may take this long, so a smaller jump is ignored


class ClockJumps:
    """The forward jumps of a clock since its first reading, measured against `steady`, a clock that never jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._jumps: list[tuple[float, float]] = []  # when, in steady seconds, and by how much

    def observe(self, now: float) -> float:
        """Compare the clock's time `now` with the steady clock and return the steady seconds."""
        with self._lock:
            steady = self._steady()
            if self._last is not None:
                jump = (now - self._last[0]) - (steady - self._last[1])
                if jump > _SMALL:
                    self._jumps.append((steady, jump))
            self._last = now, steady
            return steady

    def before(self, now: float, age: float) -> float:
        """The time such that records with an earlier clock time are at least `age` seconds old, in spite of jumps."""
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
