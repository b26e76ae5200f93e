"""Computes ages of records that stay right when the wall clock jumps forward.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # call it regularly: records from before this time are a day old or older

For example, if the clock is set forward by a day, all records seem a day older than they are. Money that is reserved
for an exposure would then be released before the cost arrives, or an experiment would end too early. To prevent this,
`before` subtracts the size of each jump until `age` seconds have passed since the jump. After that, all records from
before the jump are really older than `age`.

If the machine is suspended, the clock seems to jump as well. This is treated in the same way, because no cost can
arrive during that time.
"""

import threading
from collections.abc import Callable

# Smallest jump, in seconds. Reading the clock of another machine may take up to this long, which looks like a jump.
_SMALL = 10.0


class ClockJumps:
    """Records the forward jumps of a clock, by comparing it with `steady`, a clock that never jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        # For each jump: when it happened, on the steady clock, and its size. Both are in seconds.
        self._jumps: list[tuple[float, float]] = []

    def observe(self, now: float) -> float:
        """Record a jump if the clock has advanced more than the steady clock since the last call.

        `now` is the time that the clock shows. Returns the time of the steady clock in seconds.
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
        """Return the clock time before which all records are at least `age` seconds old, despite jumps."""
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
