"""A part that fails every time is left alone for a moment: waiting for it again and again would only keep callers out.

Without it, each decision of an arm that hangs waits until the model's time is over, and a router with nothing to do
would send callers away (`admission.py`). With it they get the default action at once; now and then one request finds
out whether the part answers again.
"""

from __future__ import annotations

import time

_FAILURES = 20  # in a row: under mere overload one of so many comes in time
_PAUSE_SECONDS = 0.25  # between requests that find out


class Breaker:
    """Of one part. For one event loop."""

    def __init__(self) -> None:
        self._failures = 0
        self._ask_again = 0.0

    def lets_through(self) -> bool:
        """Whether this request may ask the part."""
        if self._failures < _FAILURES:
            return True
        now = time.monotonic()
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, good: bool) -> None:
        """The part answered, or did not."""
        self._failures = 0 if good else self._failures + 1
        if self._failures == _FAILURES:
            self._ask_again = time.monotonic() + _PAUSE_SECONDS
