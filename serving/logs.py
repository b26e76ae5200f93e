"""Sets up the servers' log: one line of JSON per event, and at most one line a minute per cause.

    {"time": "2026-11-27T20:00:39.185+00:00", "level": "warning",
     "message": "default action, model_timeout: challenger did not answer in time", "cause": "model_timeout",
     "experiment": "ads", "arm": "challenger", "decision_id": "16c7...", "request_id": "r-1", "left_out": 532,
     "logger": "serving.router.flow.decider"}

While a store is down, every request logs the same message. The first is written at once, then one a minute, and
`left_out` counts the messages in between. The ids are those of the event that was written. User ids are never logged.
KServe and uvicorn log through the same handler.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

_SECONDS = 60.0  # seconds between two lines of one cause
_MOST_CAUSES = 1000  # limit of the causes in memory; the one seen longest ago is forgotten
_IDS = ("cause", "experiment", "arm", "decision_id", "request_id", "left_out")
"""Optional fields of a line. The first five come from the argument `extra` of the logging call."""


class OncePerCause(logging.Filter):
    """A filter that passes the first record of a cause, then one a minute with the number `left_out`.

    Records have the same cause if they share the logger, the unformatted message, the arm, and `cause` (by default the
    message's first argument). Records below the level warning always pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._causes: dict[tuple[str, ...], tuple[float, int]] = {}  # time of the last line, and records left out since
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        if record.levelno < logging.WARNING:
            return True
        about = vars(record)
        first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        key = (record.name, str(record.msg), str(about.get("cause", first)), str(about.get("arm", "")))
        now = time.monotonic()
        with self._lock:
            written, left_out = self._causes.pop(key, (-_SECONDS, 0))
            writes = now - written >= _SECONDS
            self._causes[key] = (now, 0) if writes else (written, left_out + 1)
            if len(self._causes) > _MOST_CAUSES:
                del self._causes[next(iter(self._causes))]
        if writes and left_out:
            record.left_out = left_out
        return writes


class JsonLine(logging.Formatter):
    """A formatter that writes a record and its traceback as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        about = vars(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: about[name] for name in _IDS if about.get(name) is not None},
            "logger": record.name,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up() -> None:
    """Log to standard error as JSON. If the root logger has a handler, as in tests, keep that handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine())
    handler.addFilter(OncePerCause())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("serving").setLevel(logging.INFO)
    logging.captureWarnings(True)


def messages(lines: Iterable[str]) -> Iterator[str]:
    """The messages in a log of JSON lines; other lines are skipped."""
    for line in lines:
        try:
            yield json.loads(line)["message"]
        except (ValueError, TypeError, KeyError):
            continue
