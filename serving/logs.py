"""The servers' log: an event a line of JSON, and each cause once a minute.

    {"time": "2026-11-27T20:00:39.185+00:00", "level": "warning",
     "message": "default action, model_timeout: challenger did not answer in time", "cause": "model_timeout",
     "experiment": "ads", "arm": "challenger", "decision_id": "16c7...", "request_id": "r-1", "left_out": 532,
     "logger": "serving.router.flow.decider"}

While a store is down, every request has the same message: the first is written at once, then one a minute, and
`left_out` counts those between. Ids are those of the written event; a user's is none of them. Lines of KServe and
uvicorn look alike, since all go through the handler that is made here.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

_SECONDS = 60.0  # between two lines of one cause
_MOST_CAUSES = 1000  # that are remembered
_IDS = ("cause", "experiment", "arm", "decision_id", "request_id", "left_out")
"""What a line has beside its message; the first five as `extra` of the call that logs."""


class OncePerCause(logging.Filter):
    """Lets the first line of a cause through at once, then one a minute, with `left_out`.

    A cause is the text before its arguments are put in, the arm, and `cause` or, without it, the first argument.
    Records below a warning pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._causes: dict[tuple[str, ...], tuple[float, int]] = {}  # when it was written, and left out since
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
    """A record as one line of JSON, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
    """Log what this process says to standard error; no change where a handler exists, as in a test."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLine())
    handler.addFilter(OncePerCause())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("serving").setLevel(logging.INFO)
    logging.captureWarnings(True)


def messages(lines: Iterable[str]) -> Iterator[str]:
    """The messages of a log of JSON lines; other lines are left out."""
    for line in lines:
        try:
            yield json.loads(line)["message"]
        except (ValueError, TypeError, KeyError):
            continue
