"""What the spool knows of its own records: which decisions were taken when, and which events it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal

from mtorl.log.records import Kind

Status = Literal["accepted", "late", "dangling", "duplicate"]

_FORGOTTEN_AT_ONCE = 1000  # appends wait for so many


class Index:
    """Classifies records as they come; what it knows is in memory, the oldest first to go.

    Of what it has forgotten, an event that comes again is logged again (it has the same id, and the ledger settles a
    reservation once), and an outcome is dangling, as if its decision were in the log of another router.

    Args:
        late_after: An outcome that happened this long after its decision is late.
    """

    def __init__(self, late_after: timedelta) -> None:
        self._late_seconds = late_after.total_seconds()
        self._decisions: dict[str, float] = {}
        self._events: dict[str, None] = {}
        self._doomed: dict[Kind, list[str]] = {"decision": [], "outcome": []}

    def add(self, kind: Kind, record: Mapping[str, Any]) -> Status:
        """Take note of a record and say what it is.

        An outcome without a decision is dangling: it is kept, its decision may be in the log of another router. An
        event seen before is a duplicate, and nothing is noted.
        """
        if kind == "decision":
            self._decisions.setdefault(record["decision_id"], _seconds(record))
            return "accepted"
        if record["event_id"] in self._events:
            return "duplicate"
        self._events[record["event_id"]] = None
        decided = self._decisions.get(record["decision_id"])
        if decided is None:
            return "dangling"
        return "late" if _seconds(record) - decided > self._late_seconds else "accepted"

    def knows(self, kind: Kind, record: Mapping[str, Any]) -> bool:
        """Whether a record of this id was added before."""
        return record["decision_id"] in self._decisions if kind == "decision" else record["event_id"] in self._events

    def remove(self, kind: Kind, record: Mapping[str, Any]) -> None:
        """Forget a record that could not be written."""
        if kind == "decision":
            self._decisions.pop(record["decision_id"], None)
        else:
            self._events.pop(record["event_id"], None)

    def forget(self, kind: Kind, count: int) -> None:
        """Forget the oldest records of a kind, bit by bit at each `tidy`, so that nobody waits for it."""
        doomed = self._doomed[kind]
        doomed.extend(islice(self._known(kind), len(doomed), len(doomed) + count))

    def tidy(self) -> None:
        """Go on forgetting."""
        for kind, doomed in self._doomed.items():
            for key in doomed[-_FORGOTTEN_AT_ONCE:]:
                self._known(kind).pop(key, None)
            del doomed[-_FORGOTTEN_AT_ONCE:]

    def _known(self, kind: Kind) -> dict[str, Any]:
        return self._decisions if kind == "decision" else self._events


def _seconds(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["event_time"]).timestamp()
