"""Writes exposures to users' online histories as events of the decision log arrive.

    feed = Feed(Journal(Path("journal.sqlite")), open_history(repo, spec))
    feed.take([("mtorl.decision.v1", record), ("mtorl.outcome.v1", record)])

An exposure becomes a touchpoint with its first outcome, at the latest with its cost: before that it may be cancelled.
If an outcome arrives before the cancellation, the touchpoint stays. The time of a touchpoint is the `request_time` of
its decision. A log for `mtorl materialize` must use the same time, or the user has the touchpoint twice. An outcome is
known from when the router received it.

Events may arrive again, late, or in another order. The journal is written first, then the history, and only then are
events acknowledged: after a crash in between, the sender sends them again and nothing is lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from features.online.history import History
from features.online.journal import Journal
from mtorl.log.forgotten import Forgotten
from mtorl.log.records import VERSION, Kind

_FIELDS = {
    f"mtorl.decision.v{VERSION}": (
        *("decision_id", "user_id", "event_time", "request_time", "channel", "context", "expose", "withdrawn"),
    ),
    f"mtorl.outcome.v{VERSION}": ("event_id", "decision_id", "kind", "value", "event_time", "received_time"),
}
_LARGEST = 1e9  # currency units; the router accepts no larger amount
_FORGET_SECONDS = 600.0  # between two deletions of old records

Event = tuple[str, Any]
"""Type of a CloudEvent, and its data: a record of the decision log."""


class EventError(ValueError):
    """An event that can never be taken, however often it is sent."""


class Feed:
    """Turns events into touchpoints, in one thread at a time.

    Args:
        keep_hours: How long an outcome may come after its decision.
        place: Folder of the feature repository: users who were forgotten there, or above it, don't come back.
    """

    def __init__(
        self, journal: Journal, history: History, keep_hours: float = 168.0, place: Path | None = None
    ) -> None:
        self._journal = journal
        self._history = history
        self._keep_seconds = keep_hours * 3600
        self._forget_at = 0.0
        self._place = place
        self._forgotten = Forgotten()

    def take(self, events: Sequence[Event]) -> int:
        """Take events; once this returns, they may be acknowledged. Events of other types are ignored.

        Returns how many touchpoints were written or changed.

        Raises:
            EventError: one of them is not a record of the decision log; none was taken.
            HistoryError: a touchpoint does not fit the data set.
            Exception: a store does not answer; the events have to be sent again.
        """
        records: dict[Kind, list[Mapping[str, Any]]] = {"decision": [], "outcome": []}
        for kind, record in events:
            if kind.startswith("mtorl.shadow."):  # it was never shown
                continue
            if kind.startswith("mtorl.") and kind not in _FIELDS:
                raise EventError(f"type: {kind} is not one of {', '.join(_FIELDS)}")
            if kind in _FIELDS:
                records[_kind(kind)].append(_checked(kind, record))
        forgotten = self._forgotten_by_now()
        records["decision"] = [
            record
            for record in records["decision"]
            if not forgotten.has(record["user_id"], datetime.fromisoformat(record["event_time"]))
        ]
        written = 0
        for decision in sorted(self._journal.record(records["decision"], records["outcome"])):
            shown = self._journal.shown(decision)
            if shown is not None:
                touchpoint = shown.touchpoint
                written += self._history.append(shown.user_id, touchpoint) or self._history.patch(
                    shown.user_id, touchpoint.timestamp, touchpoint.outcomes, touchpoint.known
                )
        if time.monotonic() >= self._forget_at:
            self._journal.forget(self._keep_seconds)
            self._forget_at = time.monotonic() + _FORGET_SECONDS
        return written

    def _forgotten_by_now(self) -> Forgotten:
        """The users who were forgotten by now, also in the journal."""
        forgotten = Forgotten() if self._place is None else Forgotten.of(self._place)
        if forgotten != self._forgotten:
            self._journal.forget_users(forgotten)
            self._forgotten = forgotten
        return forgotten


def _kind(event: str) -> Kind:
    return "outcome" if event.startswith("mtorl.outcome.") else "decision"


def _checked(kind: str, record: Any) -> Mapping[str, Any]:
    missing = [name for name in _FIELDS[kind] if not isinstance(record, Mapping) or name not in record]
    if missing:
        raise EventError(f"{kind}: no {', '.join(missing)}")
    texts = [name for name in ("decision_id", "user_id", "event_time", "channel", "event_id", "kind") if name in record]
    if wrong := [name for name in texts if not isinstance(record[name], str)]:
        raise EventError(f"{kind}: no text for {', '.join(wrong)}")
    if _kind(kind) == "outcome":
        value = record["value"]
        # An integer may be too large for any amount; SQLite would store a text that looks like a number.
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
            raise EventError(f"{kind}: value is no amount")
        _check_times(kind, record, "event_time", "received_time")
        return record
    if not isinstance(record["expose"], bool) or not isinstance(record["withdrawn"], bool):
        raise EventError(f"{kind}: expose and withdrawn must be true or false")
    _check_times(kind, record, "event_time", "request_time")
    if not isinstance(record["context"], Mapping):
        raise EventError(f"{kind}: context is no object")
    return record


def _check_times(kind: str, record: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not _is_time(record[name]):
            raise EventError(f"{kind}: {name} is no time with a zone")


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (ValueError, TypeError):
        return False
