"""Computes the ages of records correctly even if the wall clock jumps forward.

If the clock is set forward by a day, all records seem a day older. Money that is reserved for an exposure would then
be released before the cost of the exposure is reported.
"""

import threading
from collections.abc import Callable

# Smallest jump, in seconds: reading the clock of another machine may take this long.
_SMALL = 10.0


class ClockJumps:
    """Records the forward jumps of a clock, by comparison with the clock `steady`, which never jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        # Time (steady clock) and size of each jump, in seconds.
        self._jumps: list[tuple[float, float]] = []

    def observe(self, now: float) -> float:
        """Record a jump if the clock has advanced further than the steady clock since the last call.

        Returns the time of the steady clock in seconds.
        """
        with self._lock:
            steady = self._steady()
            if self._last is not None:
                jump = (now - self._last[0]) - (steady - self._last[1])
                if jump > _SMALL:
                    self._jumps.append((steady, jump))
            self._last = now, steady
            return steady

    def before(self, now: float, age: float) -> float:
        """Return the clock time before which all records are at least `age` seconds old.

        Jumps of the clock in the last `age` seconds are subtracted.
        """
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
