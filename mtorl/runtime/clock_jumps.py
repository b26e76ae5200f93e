"""Ages by a clock that may be put forward: a jump makes nothing older until as much time has passed.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # called again and again: what was made earlier is surely as old as a day

A clock that is put forward by a day for a moment must neither release a reservation whose cost is on its way, nor end
an experiment. A jump counts until as much time has passed since: by then all that was made before it is as old anyhow.
The same holds after the machine was suspended, when no cost could be reported.
"""

import threading
from collections.abc import Callable

_SMALL = 10.0  # seconds: reading a clock on another machine may take as long


class ClockJumps:
    """Jumps of a clock since its first reading, by the seconds of a clock (`steady`) that is never put forward."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._jumps: list[tuple[float, float]] = []  # when, in steady seconds, and by how much

    def observe(self, now: float) -> float:
        """Note the clock's time; returns the steady seconds."""
        with self._lock:
            steady = self._steady()
            if self._last is not None:
                jump = (now - self._last[0]) - (steady - self._last[1])
                if jump > _SMALL:
                    self._jumps.append((steady, jump))
            self._last = now, steady
            return steady

    def before(self, now: float, age: float) -> float:
        """The latest time, by the clock, of what is surely `age` seconds old at its time `now`."""
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
