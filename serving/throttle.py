"""Log lines that are not repeated for every request: while a store is away, all requests report the same."""

from __future__ import annotations

import logging
import time


class OncePerSecond(logging.Filter):
    """Lets a message with the same format and first argument through once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record."""
        args = record.args if isinstance(record.args, tuple) else ()
        key, now = (str(record.msg), str(args[0]) if args else ""), time.monotonic()
        if now - self._last.get(key, -1.0) < 1.0:
            return False
        self._last[key] = now
        return True
