"""Ages by a clock that may be put forward: such a jump makes nothing older, and is believed only after a while.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # asked again and again: what was made earlier is surely as old as a day

A reservation whose cost is on its way must not be given back, and its money granted again, since a clock said for a
moment that a day has passed; nor is an experiment over then. Steady seconds tell how much of that is a jump. It counts
until as much time has passed since: by then all that was made before it is as old anyhow. The same holds after a pause
in which the machine was suspended: nobody could report a cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_SMALL = 10.0  # seconds between two looks: how long asking a clock on another machine may take


class ClockJumps:
    """How far a clock was put forward since it was first looked at.

    Args:
        steady: Seconds that go on evenly, of which only differences count.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._jumps: list[tuple[float, float]] = []  # when, in steady seconds, and by how much

    def look(self, now: float) -> float:
        """Take note of what the clock says; returns the steady seconds."""
        with self._lock:
            steady = self._steady()
            if self._last is not None:
                jump = (now - self._last[0]) - (steady - self._last[1])
                if jump > _SMALL:
                    self._jumps.append((steady, jump))
            self._last = now, steady
            return steady

    def before(self, now: float, age: float) -> float:
        """The latest time, by the clock, of what is surely that old.

        Args:
            now: What the clock says.
            age: Seconds.
        """
        steady = self.look(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
