"""The times of decisions and the ids of outcome events, which classify an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from mtorl.log.records import ID_FIELD, Kind

_LATE_SECONDS = 7 * 86_400.0  # after its decision
_FORGOTTEN_AT_ONCE = 1000  # ids; appends wait meanwhile

Status = Literal["accepted", "late", "dangling", "duplicate"]


class Index:
    """Classifies records as they arrive. It lives in memory, and forgets the oldest records first.

    An event whose first record was forgotten is logged again if it is sent again: it has the same id, and the ledger
    settles a reservation once. An outcome whose decision was forgotten is dangling, as if another router had logged it.
    """

    def __init__(self) -> None:
        self._decisions: dict[str, float] = {}
        self._events: dict[str, None] = {}
        self._to_forget: dict[Kind, list[str]] = {kind: [] for kind in ID_FIELD}

    def add(self, kind: Kind, record: Mapping[str, Any]) -> Status:
        """Remember a record and classify it.

        An outcome without a known decision is dangling: it is kept, since another router may have logged the decision.
        """
        if kind == "decision":
            self._decisions.setdefault(record["decision_id"], _seconds(record))
            return "accepted"
        if kind == "shadow":  # nobody sends one twice, and nothing refers to it: none is remembered
            return "accepted"
        if record["event_id"] in self._events:
            return "duplicate"
        self._events[record["event_id"]] = None
        decided = self._decisions.get(record["decision_id"])
        if decided is None:
            return "dangling"
        return "late" if _seconds(record) - decided > _LATE_SECONDS else "accepted"

    def knows(self, kind: Kind, record: Mapping[str, Any]) -> bool:
        """Whether a record of this id was added before."""
        return record[ID_FIELD[kind]] in self._ids(kind)

    def remove(self, kind: Kind, record: Mapping[str, Any]) -> None:
        """Forget a record that could not be written."""
        self._ids(kind).pop(record[ID_FIELD[kind]], None)

    def forget(self, kind: Kind, count: int) -> None:
        """Mark the oldest records of a kind; each `tidy` forgets some of them, so that no append waits for all."""
        outdated = self._to_forget[kind]
        outdated.extend(islice(self._ids(kind), len(outdated), len(outdated) + count))

    def tidy(self) -> None:
        """Forget some of the marked records."""
        for kind, outdated in self._to_forget.items():
            for key in outdated[-_FORGOTTEN_AT_ONCE:]:
                self._ids(kind).pop(key, None)
            del outdated[-_FORGOTTEN_AT_ONCE:]

    def _ids(self, kind: Kind) -> dict[str, Any]:
        known: dict[Kind, dict[str, Any]] = {"decision": self._decisions, "outcome": self._events, "shadow": {}}
        return known[kind]


def _seconds(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["event_time"]).timestamp()
