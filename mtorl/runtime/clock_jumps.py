"""Computes ages of records that stay right when the wall clock jumps forward.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # call it regularly: records from before this time are a day old or older

For example, the clock may be a day ahead for a moment. Records would then seem a day too old, so that the budget of an
exposure would be released before its cost arrives, or an experiment would end too early. To prevent this, `before`
subtracts the size of each jump until `age` seconds have passed since the jump. After that, all records from before the
jump are really older than `age`.

If the machine is suspended, the clock seems to jump as well. This is treated in the same way, because no cost can
arrive during that time.
"""

import threading
from collections.abc import Callable

# Seconds. Smaller differences are ignored, because reading the clock of another machine may take this long.
_SMALL = 10.0


class ClockJumps:
    """Records the forward jumps of a clock, by comparing it with `steady`, a clock that never jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        # For each jump, the time on the steady clock and the size, in seconds.
        self._jumps: list[tuple[float, float]] = []

    def observe(self, now: float) -> float:
        """Record a jump if the clock, which shows `now`, has advanced more than the steady clock since the last call.

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
        """Return a clock time such that all records from before it are at least `age` seconds old, even after jumps."""
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
