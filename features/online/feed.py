"""Writes exposures to users' online histories as events of the decision log arrive.

    feed = Feed(open_history(repo, spec), repo)
    feed.take([("mtorl.decision.v1", record), ("mtorl.outcome.v1", record)])

An exposure becomes a touchpoint with its first outcome, at the latest with its cost; until then it may be cancelled.
The time of a touchpoint is the `request_time` of its decision. A log for `mtorl materialize` must use the same time;
otherwise the history contains the touchpoint twice. An outcome is known from the time when the router received it.

A feed has no state, so several may run at once. Events arrive at least once: in order from each router, in any order
across routers. Each history records its decisions and outcomes, so a repeated event changes nothing. An outcome does
not name its user, so the feed writes two kinds of notes to the online store, for a day (`NOTED_SECONDS`):

    time and bucket of the decision's id -> decision -> user, "" if it was withdrawn     about 30 bytes each
    waiting:<decision> -> event -> outcome                     outcomes whose decision has no touchpoint yet

If a decision and its outcome arrive at two feeds at once, at least one feed finds both records. The feed of the
decision writes the history before it reads waiting outcomes. If the feed of the outcome finds no touchpoint, it writes
the outcome as waiting before it looks for the touchpoint again.

Events are acknowledged after the history is written. Outcomes that arrive too late for the notes, and events that no
feed wrote, reach the history from the lake, with the next `mtorl materialize`.
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

_WITHDRAWN = ""  # noted in place of the user

Event = tuple[str, Any]
"""A CloudEvent's type, and its data, which is a record of the decision log."""


class EventError(ValueError):
    """Raised for an invalid event; sending it again would not help."""


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
    value: Annotated[float, Field(ge=-1e9, le=1e9)]  # currency units; the router rejects larger amounts
    event_time: _Time
    received_time: _Time


_TYPES: dict[str, tuple[Kind, TypeAdapter[Any]]] = {
    f"mtorl.decision.v{VERSION}": ("decision", TypeAdapter(_Decision)),
    f"mtorl.outcome.v{VERSION}": ("outcome", TypeAdapter(_Outcome)),
}


class Feed:
    """Turns events into touchpoints, except for users forgotten in the folder `place` or above it."""

    def __init__(self, history: History, repo: Path, place: Path | None = None) -> None:
        self._history, self._notes, self.memory = history, history.store, history.store.memory
        self._repo, self._place = repo, place

    def take(self, events: Sequence[Event]) -> int:
        """Store events of known types, which may then be acknowledged; returns how many histories changed.

        Raises:
            EventError: An event is not a record of the decision log. No event was stored.
            HistoryError: A touchpoint does not fit the data set.
            Exception: A store does not respond. The caller has to send the events again.
        """
        records: dict[Kind, list[Record]] = {"decision": [], "outcome": []}
        for kind, record in events:
            if kind in _TYPES:
                of, type_ = _TYPES[kind]
                try:
                    records[of].append(type_.validate_python(record))
                except ValidationError as error:
                    raise EventError(f"{kind}: {error}") from None
            elif kind.startswith("mtorl.") and not kind.startswith("mtorl.shadow."):  # shadow decisions are never shown
                raise EventError(f"type: {kind} is not one of {', '.join(_TYPES)}")
        decisions = [record for record in records["decision"] if record["expose"] or record["withdrawn"]]
        gone = self._forgotten(decisions)
        decisions = [record for record in decisions if record not in gone]
        written = self._write(decisions, sorted(records["outcome"], key=_after_cancel))
        if gone := self._forgotten(decisions):  # users forgotten after their records were accepted
            forget_online(self._repo, {record["user_id"] for record in gone})
        return len(written)

    def _write(self, decisions: Sequence[Record], outcomes: Sequence[Record]) -> set[str]:
        missed = set[str]()
        each = [self._history.outcome(record, missed) for record in outcomes]  # raises before anything is written
        changes = self._decided(decisions)
        users = self._notes.noted([_place(record) for record in outcomes])
        for user, change in zip(users, each, strict=True):
            if user:
                changes[user].append(change)
        written = self._history.change(changes)

        # A concurrent feed may be writing an outcome's decision: before its note, or between its note and its history.
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
        """Note the users of decisions, and return the changes of their histories."""
        exposures = [self._history.exposure(record) for record in decisions]
        changes: dict[str, list[Change]] = defaultdict(list)
        places = [_place(record) for record in decisions]
        users = [_WITHDRAWN if record["withdrawn"] else record["user_id"] for record in decisions]
        self._notes.note([(*place, user, user == _WITHDRAWN) for place, user in zip(places, users, strict=True)])
        for record, exposure, user in zip(decisions, exposures, self._notes.noted(places), strict=True):
            # A withdrawn decision has two records, which may arrive in any order. The withdrawal counts.
            gone = self._history.cancellation(record["decision_id"])
            changes[record["user_id"]].append(gone if user == _WITHDRAWN else exposure)
        return changes

    def _forgotten(self, decisions: Sequence[Record]) -> list[Record]:
        forgotten = Forgotten() if self._place is None else Forgotten.of(self._place)
        return [r for r in decisions if forgotten.has(r["user_id"], datetime.fromisoformat(r["event_time"]))]


def _place(record: Record) -> tuple[str, str]:
    """Return key and field of the note on a decision's user; keys by minute and bucket of its id keep hashes small."""
    decision = record["decision_id"]
    digest = hashlib.blake2b(decision.encode(), digest_size=8).digest()
    return decision[:8] + decision[15:17], base64.b85encode(digest).decode()


def _waiting(record: Record) -> str:
    return f"waiting:{record['decision_id']}"


def _after_cancel(outcome: Record) -> bool:
    """Return a sort key that puts the cancellations of a batch first."""
    return bool(outcome["kind"] != CANCEL)
