"""How many requests may be at work at once: as many as are answered in time, and never more than a fixed number.

Additive increase, multiplicative decrease, as TCP does it: an answer in good time raises the limit a little, one that
took too long lowers it by a tenth. Who does not get in hears so at once, and the work that is inside stays within its
deadline, whatever the load: a queue would only make all of it late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

_LEAST = 4  # of the limit: a fault that makes everything slow must not lock everybody out
_LATE = 1.25  # deadlines: an answer that a slow part held up until the deadline is no overload
_GOOD = 0.5  # of the deadline: an answer before it raises the limit
_FALL = 0.9  # what an answer after the deadline leaves of the limit


class Saturated(RuntimeError):
    """There is no room for one more; come again later."""


class Admission:
    """Counts who is inside. For one thread.

    Args:
        most: The limit's upper bound, and where it starts.
        seconds: When an answer is late.

    Attributes:
        limit: How many may be inside now.
        inside: How many are.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.limit = float(most)
        self.inside = 0
        self._most = most
        self._seconds = seconds
        self._fell = 0.0  # when the limit was lowered last

    @contextmanager
    def one(self) -> Iterator[None]:
        """Be inside.

        Raises:
            Saturated: There is no room.
        """
        if self.inside >= int(self.limit):
            raise Saturated(f"{self.inside} requests are at work")
        self.inside += 1
        start = perf_counter()
        try:
            yield
        finally:
            self.inside -= 1
            self._learn(start, perf_counter())

    def _learn(self, start: float, end: float) -> None:
        if end - start > _LATE * self._seconds:
            # All that were inside together are late together: that is one sign of overload and not fifty.
            if start >= self._fell:
                self.limit, self._fell = min(self._most, max(_LEAST, self.limit * _FALL)), end
        elif end - start < _GOOD * self._seconds:
            self.limit = min(self._most, self.limit + 1 / self.limit)
