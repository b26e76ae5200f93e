"""Sets up the servers' log: one line of JSON per event, and at most one line a minute per cause.

    {"time": "2026-11-27T20:00:39.185+00:00", "level": "warning",
     "message": "default action, model_timeout: challenger did not answer in time", "cause": "model_timeout",
     "experiment": "ads", "arm": "challenger", "decision_id": "16c7...", "request_id": "r-1", "left_out": 532,
     "logger": "serving.router.flow.decider"}

Here, 532 further messages with the same cause were left out since the last line. User ids are never logged.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

_SECONDS = 60.0  # between two lines with the same cause
_MOST_CAUSES = 1000  # the oldest cause is forgotten beyond this number
_IDS = ("cause", "experiment", "arm", "decision_id", "request_id", "left_out")
"""Optional fields of a log line. The first five come from the argument `extra` of the logging call."""


class OncePerCause(logging.Filter):
    """A filter that passes one warning or error per cause and minute.

    Two messages have the same cause if their logger, unformatted message, arm and field `cause` agree.
    """

    def __init__(self) -> None:
        super().__init__()
        # cause -> when it was last written, and the number omitted since
        self._causes: dict[tuple[str, ...], tuple[float, int]] = {}
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
    """A formatter that writes a log record as one line of JSON."""

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
    """Write the log to standard error as JSON lines, unless the root logger has a handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine())
    handler.addFilter(OncePerCause())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("serving").setLevel(logging.INFO)
    logging.captureWarnings(True)


def messages(lines: Iterable[str]) -> Iterator[str]:
    """Yield the messages in a log of JSON lines."""
    for line in lines:
        try:
            yield json.loads(line)["message"]
        except (ValueError, TypeError, KeyError):
            continue
