"""What the spool knows of its own records: which decisions were taken when, and which events it has seen."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from serving.decision_log.records import Kind

Status = Literal["accepted", "late", "dangling", "duplicate"]


class Index:
    """Classifies records as they come; about 300 bytes of memory for each record that the spool's folder holds.

    Args:
        late_after: An outcome that happened this long after its decision is late.
    """

    def __init__(self, late_after: timedelta) -> None:
        self._late_seconds = late_after.total_seconds()
        self._decisions: dict[str, float] = {}
        self._events: set[str] = set()

    def add(self, kind: Kind, record: dict[str, Any]) -> Status:
        """Take note of a record and say what it is.

        An outcome without a decision is dangling: it is kept, its decision may be in the log of another router. An
        event seen before is a duplicate, and nothing is noted.
        """
        if kind == "decision":
            self._decisions.setdefault(record["decision_id"], _seconds(record))
            return "accepted"
        if record["event_id"] in self._events:
            return "duplicate"
        self._events.add(record["event_id"])
        decided = self._decisions.get(record["decision_id"])
        if decided is None:
            return "dangling"
        return "late" if _seconds(record) - decided > self._late_seconds else "accepted"

    def knows(self, kind: Kind, record: dict[str, Any]) -> bool:
        """Whether a record of this id was added before."""
        return record["decision_id"] in self._decisions if kind == "decision" else record["event_id"] in self._events

    def remove(self, kind: Kind, record: dict[str, Any]) -> None:
        """Forget a record that could not be written."""
        if kind == "decision":
            self._decisions.pop(record["decision_id"], None)
        else:
            self._events.discard(record["event_id"])


def _seconds(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["event_time"]).timestamp()
