"""Lists forgotten users in `forgotten.json`; writers leave out these users' records in the list's folder and below.

    Forgotten.add(folder, ["u1"], now)                  # `mtorl data forget` calls this before it removes anything
    forgotten = Forgotten.of(folder / "lake")           # the lists of this folder and of all its parents
    forgotten.sql("decision")                           # DuckDB condition: true for a record that must not be written

After a removal, a router's spool still contains records of the user for a while. Without the list, a later upload or
compaction would restore these records. The list has users by `unit_hash`, each with a time. Only records from before
this time are forgotten, so a user who returns later counts as a new user. The hashes do not anonymise a user whose id
is known: with the id, anyone who can read the list can find out that the user was forgotten.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from mtorl.log.messages import NOT_FORGOTTEN
from mtorl.log.records import Kind, unit_hash
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked
from mtorl.runtime.messages import BUSY

FILE = "forgotten.json"
_LOCK = ".forgotten.lock"


class ForgottenError(OSError):
    """The list of forgotten users can't be read, or another run has locked it; the message names the folder or file."""


@dataclass(frozen=True)
class Forgotten:
    """The records that must no longer be written, by user and time."""

    users: Mapping[str, datetime] = field(default_factory=dict)  # by `unit_hash`: earlier records are forgotten
    before: datetime | None = None  # records of all users from before this time are forgotten

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The merged lists of a folder and of all its parents; raises OSError."""
        found, place = cls(), Path(folder).resolve()
        for path in (above / FILE for above in (place, *place.parents)):
            if path.exists():
                found = found._with(cls.parsed(path.read_text(encoding="utf-8"), str(path)))
        return found

    @classmethod
    def add(cls, folder: Path, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> None:
        """Add users and times (see `extended`) to the list of an existing folder; raises OSError."""
        path = folder / FILE
        known = cls.parsed(path.read_text(encoding="utf-8"), str(path)) if path.exists() else cls()
        if (after := known.extended(user_ids, until, before)) != known:
            with replacing(path, durable=True) as unfinished:
                unfinished.write_text(after.text(), encoding="utf-8")

    def extended(self, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> Self:
        """A copy that forgets these users' records from before `until`, and all users' records from before `before`."""
        return self._with(type(self)(dict.fromkeys(map(unit_hash, user_ids), until), before))

    def text(self) -> str:
        """The content of a file."""
        users = {name: time.isoformat() for name, time in sorted(self.users.items())}
        return json.dumps({"before": self.before and self.before.isoformat(), "users": users}, indent=1) + "\n"

    def __bool__(self) -> bool:
        return bool(self.users) or self.before is not None

    def has(self, user_id: str, at: datetime) -> bool:
        """Whether a record of this user at this time is forgotten."""
        until = self.users.get(unit_hash(user_id))
        return (until is not None and at < until) or (self.before is not None and at < self.before)

    def sql(self, kind: Kind) -> str:
        """SQL condition, never null: true for a record that must not be written. Outcomes and shadows have no user."""
        clauses = [] if self.before is None else [f"event_time < {_literal(self.before)}"]
        together = defaultdict(list)
        for name, time in self.users.items() if kind in ("decision", "window") else ():
            together[time].append(f"'{name}'")
        clauses += [f"(event_time < {_literal(t)} AND unit_hash IN ({', '.join(us)}))" for t, us in together.items()]
        return f"coalesce({' OR '.join(clauses)}, false)" if clauses else "false"

    def _with(self, other: Self) -> Self:
        """The union of two lists; if both have a time for a user, the later time applies."""
        users = dict(self.users)
        for name, time in other.users.items():
            users[name] = max(time, users.get(name, time))
        before = max((time for time in (self.before, other.before) if time is not None), default=None)
        return type(self)(users, before)

    @classmethod
    def parsed(cls, text: str, path: str) -> Self:
        """The list in the text of a file; raises ForgottenError."""
        try:
            content = json.loads(text)
            users = {str(name): datetime.fromisoformat(time) for name, time in content["users"].items()}
            before = content["before"] and datetime.fromisoformat(content["before"])
            if not all(name.isalnum() for name in users):
                raise ValueError("a user's name is not a hash")
            return cls(users, before)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForgottenError(NOT_FORGOTTEN(file=path, reason=error)) from None


def alone(folder: Path) -> AbstractContextManager[int]:
    """Lock the list of a folder until the end of the block; ForgottenError if another run has locked it."""
    return locked(folder / _LOCK, ForgottenError(BUSY(folder=folder, what="`mtorl data forget`")))


def _literal(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.isoformat()}'"
