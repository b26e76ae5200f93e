"""Adds exposures and outcomes to users' online histories, as the routers send them.

    feed = Feed(open_history(repo, spec), repo)
    feed.take([("mtorl.decision.v1", record), ("mtorl.outcome.v1", record)])

An exposure counts as a touchpoint once its first outcome arrives, which is at the latest its cost. Until then it may be
cancelled. The touchpoint's time is the `request_time` of the decision. A log for `mtorl materialize` must use the same
time; otherwise the history contains the touchpoint twice. An outcome becomes known at the time when the router receives
it.

A feed keeps nothing in memory, so several feeds may run at once. Each event arrives at least once. Events of one router
arrive in order, but events of different routers in any order. Each history lists its decisions and outcomes, so a
repeated event changes nothing. An outcome has no user id, so the feed stores two kinds of notes in the online store for
a day (`NOTED_SECONDS`):

    time and bucket of the decision's id -> decision -> user, "" if it was withdrawn     about 30 bytes each
    waiting:<decision> -> event -> outcome                     outcomes whose decision has no touchpoint yet

Two feeds may receive a decision and its outcome at the same time. The feed with the decision writes the history before
it reads waiting outcomes. The feed with the outcome writes the outcome as waiting before it looks for the touchpoint a
second time. So at least one of them finds both.

The feed acknowledges an event after the history has been written. An outcome that arrives after its note has expired,
or an event that no feed has written, is added from the lake by the next `mtorl materialize`.
"""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from features.online.history import Change, History, Record
from features.online.open_history import forget_online
from mtorl.log.forgotten import Forgotten
from mtorl.log.records import CANCEL, VERSION, Kind

# The note for a withdrawn decision contains this text in place of the user.
_WITHDRAWN = ""

Event = tuple[str, Any]
"""A CloudEvent: its type, and its data, which is a record of the decision log."""


class EventError(ValueError):
    """Raised if an event is invalid, so that the sender should not send it again."""


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("the time has no zone")
    return text


_Time = Annotated[str, AfterValidator(_with_zone)]
_strict = with_config(ConfigDict(strict=True, hide_input_in_errors=True))


@_strict
class _Decision(TypedDict):
    decision_id: str
    user_id: str
    event_time: _Time
    request_time: _Time
    channel: str
    context: dict[str, Any]
    expose: bool
    withdrawn: bool


@_strict
class _Outcome(TypedDict):
    event_id: str
    decision_id: str
    kind: str
    # Amount in currency units; the router rejects larger ones.
    value: Annotated[float, Field(ge=-1e9, le=1e9)]
    event_time: _Time
    received_time: _Time


_TYPES: dict[str, tuple[Kind, TypeAdapter[Any]]] = {
    f"mtorl.decision.v{VERSION}": ("decision", TypeAdapter(_Decision)),
    f"mtorl.outcome.v{VERSION}": ("outcome", TypeAdapter(_Outcome)),
}


class Feed:
    """Writes events to the online histories of users.

    Args:
        place: Folder with the list of forgotten users, or a folder below it. Decisions of these users are ignored.
    """

    def __init__(self, history: History, repo: Path, place: Path | None = None) -> None:
        self._history, self._notes, self.memory = history, history.store, history.store.memory
        self._repo, self._place = repo, place

    def take(self, events: Sequence[Event]) -> int:
        """Write events to the histories of their users. Returns how many histories have changed.

        Raises:
            EventError: An event is not a valid decision or outcome. None of the events was written.
            HistoryError: An event does not fit the data set, for example because its channel is unknown.
            Exception: The store does not respond, so the sender has to send the events again.
        """
        records: dict[Kind, list[Record]] = {"decision": [], "outcome": []}
        for kind, record in events:
            if kind in _TYPES:
                of, type_ = _TYPES[kind]
                try:
                    records[of].append(type_.validate_python(record))
                except ValidationError as error:
                    raise EventError(f"{kind}: {error}") from None
            # ads of shadow decisions are never shown
            elif kind.startswith("mtorl.") and not kind.startswith("mtorl.shadow."):
                raise EventError(f"type: {kind} is not one of {', '.join(_TYPES)}")
        decisions = [record for record in records["decision"] if record["expose"] or record["withdrawn"]]
        gone = self._forgotten(decisions)
        decisions = [record for record in decisions if record not in gone]
        written = self._write(decisions, sorted(records["outcome"], key=_after_cancel))
        if gone := self._forgotten(decisions):  # a user was forgotten in the meantime
            forget_online(self._repo, {record["user_id"] for record in gone})
        return len(written)

    def _write(self, decisions: Sequence[Record], outcomes: Sequence[Record]) -> set[str]:
        missed = set[str]()
        # may raise, so before anything is written
        each = [self._history.outcome(record, missed) for record in outcomes]
        changes = self._decided(decisions)
        users = self._notes.noted([_place(record) for record in outcomes])
        for user, change in zip(users, each, strict=True):
            if user:
                changes[user].append(change)
        written = self._history.change(changes)

        # Another feed may be writing the decision of an outcome right now. Store the outcome before looking for its
        # touchpoint again, so that one of the two feeds finds both.
        changes = defaultdict(list)
        waiting = self._notes.notes_of([_waiting(record) for record in decisions])
        for record, texts in zip(decisions, waiting, strict=True):
            for early in sorted(map(json.loads, texts.values()), key=_after_cancel):
                changes[record["user_id"]].append(self._history.outcome(early))
        late = [
            (record, change)
            for record, user, change in zip(outcomes, users, each, strict=True)
            if user is None or record["event_id"] in missed
        ]
        self._notes.note([(_waiting(record), record["event_id"], json.dumps(record), False) for record, _ in late])
        users = self._notes.noted([_place(record) for record, _ in late])
        for user, (_, change) in zip(users, late, strict=True):
            if user:
                changes[user].append(change)
        return written | self._history.change(changes)

    def _decided(self, decisions: Sequence[Record]) -> dict[str, list[Change]]:
        """Store the user of each decision as a note. Returns the changes of histories, by user."""
        exposures = [self._history.exposure(record) for record in decisions]
        changes: dict[str, list[Change]] = defaultdict(list)
        places = [_place(record) for record in decisions]
        users = [_WITHDRAWN if record["withdrawn"] else record["user_id"] for record in decisions]
        self._notes.note([(*place, user, user == _WITHDRAWN) for place, user in zip(places, users, strict=True)])
        for record, exposure, user in zip(decisions, exposures, self._notes.noted(places), strict=True):
            # The withdrawal of a decision may arrive before the decision. There must be no touchpoint in either order.
            gone = self._history.cancellation(record["decision_id"])
            changes[record["user_id"]].append(gone if user == _WITHDRAWN else exposure)
        return changes

    def _forgotten(self, decisions: Sequence[Record]) -> list[Record]:
        forgotten = Forgotten() if self._place is None else Forgotten.of(self._place)
        return [r for r in decisions if forgotten.has(r["user_id"], datetime.fromisoformat(r["event_time"]))]


def _place(record: Record) -> tuple[str, str]:
    """Return the key and the field at which the online store notes the user of a decision."""
    decision = record["decision_id"]
    digest = hashlib.blake2b(decision.encode(), digest_size=8).digest()
    return decision[:8] + decision[15:17], base64.b85encode(digest).decode()


def _waiting(record: Record) -> str:
    return f"waiting:{record['decision_id']}"


def _after_cancel(outcome: Record) -> bool:
    """Sort key with which cancellations come first, because they have no effect after an outcome."""
    return bool(outcome["kind"] != CANCEL)
