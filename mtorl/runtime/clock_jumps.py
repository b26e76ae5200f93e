"""Computes ages that stay right when the wall clock jumps forward.

    jumps = ClockJumps(time.monotonic)
    jumps.before(time.time(), 86_400.0)     # call it regularly: records from before this time are a day old or older

If a clock is a day ahead for a moment, this must neither release a reservation whose cost is still to come, nor end an
experiment. So `before` subtracts each jump until `age` seconds have passed since the jump. By then, all records from
before the jump are at least `age` old. If the machine is suspended, no cost can arrive, so this also counts as a jump.
"""

import threading
from collections.abc import Callable

_SMALL = 10.0  # seconds; smaller jumps are ignored, because reading another machine's clock may take this long


class ClockJumps:
    """The forward jumps of a clock since its first reading, measured against `steady`, a clock that never jumps."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._jumps: list[tuple[float, float]] = []  # time of each jump, in steady seconds, and its size in seconds

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
        """A clock time; records with an earlier clock time are at least `age` seconds old, in spite of jumps."""
        steady = self.observe(now)
        return now - age - sum(jump for at, jump in self._jumps if steady - at < age)
