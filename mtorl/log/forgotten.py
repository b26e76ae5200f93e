"""Forgotten users: `forgotten.json`, which every writer into its folder or below it obeys.

    Forgotten.add(folder, ["u1"], now)                  # `mtorl data forget` does, before it removes anything
    forgotten = Forgotten.of(folder / "lake")           # of this folder and of all above it
    forgotten.sql("decision")                           # DuckDB: whether a record must not be written

A router's spool still holds a user's records for a while, and a later upload or compaction would bring them back. So
each of those leaves out what the file names. It names users by `unit_hash` and a time: only what happened
before it is forgotten, and a user who comes back later is a new one. A hash is no secret: the holder of an id can tell
that it was forgotten.
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
    """The list of forgotten users can't be read, or another run holds it; the message names the place."""


@dataclass(frozen=True)
class Forgotten:
    """Users and ages that must not be written any more."""

    users: Mapping[str, datetime] = field(default_factory=dict)  # by `unit_hash`: time up to which each is forgotten
    before: datetime | None = None  # what happened earlier is forgotten, of all users

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The users and times of a folder's file and of the files above it; raises OSError."""
        found, place = cls(), Path(folder).resolve()
        for path in (above / FILE for above in (place, *place.parents)):
            if path.exists():
                found = found._with(cls.parsed(path.read_text(encoding="utf-8"), str(path)))
        return found

    @classmethod
    def add(cls, folder: Path, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> None:
        """Note in an existing folder's file who is forgotten, and until when; raises OSError."""
        path = folder / FILE
        known = cls.parsed(path.read_text(encoding="utf-8"), str(path)) if path.exists() else cls()
        if (after := known.extended(user_ids, until, before)) != known:
            with replacing(path, durable=True) as unfinished:
                unfinished.write_text(after.text(), encoding="utf-8")

    def extended(self, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> Self:
        """Add users who are forgotten until a time, and everything that happened before a time."""
        return self._with(type(self)(dict.fromkeys(map(unit_hash, user_ids), until), before))

    def text(self) -> str:
        """The content of a file."""
        users = {name: time.isoformat() for name, time in sorted(self.users.items())}
        return json.dumps({"before": self.before and self.before.isoformat(), "users": users}, indent=1) + "\n"

    def __bool__(self) -> bool:
        return bool(self.users) or self.before is not None

    def has(self, user_id: str, at: datetime) -> bool:
        """Whether something that a user did at a time is forgotten."""
        until = self.users.get(unit_hash(user_id))
        return (until is not None and at < until) or (self.before is not None and at < self.before)

    def sql(self, kind: Kind) -> str:
        """SQL condition, never null: whether a record must not be written; decisions and windows name their user."""
        clauses = [] if self.before is None else [f"event_time < {_literal(self.before)}"]
        together = defaultdict(list)
        for name, time in self.users.items() if kind in ("decision", "window") else ():
            together[time].append(f"'{name}'")
        clauses += [f"(event_time < {_literal(t)} AND unit_hash IN ({', '.join(us)}))" for t, us in together.items()]
        return f"coalesce({' OR '.join(clauses)}, false)" if clauses else "false"

    def _with(self, other: Self) -> Self:
        """Both together: of two times the later one."""
        users = dict(self.users)
        for name, time in other.users.items():
            users[name] = max(time, users.get(name, time))
        before = max((time for time in (self.before, other.before) if time is not None), default=None)
        return type(self)(users, before)

    @classmethod
    def parsed(cls, text: str, path: str) -> Self:
        """The users and times in the text of a file; raises ForgottenError."""
        try:
            content = json.loads(text)
            users = {str(name): datetime.fromisoformat(time) for name, time in content["users"].items()}
            before = content["before"] and datetime.fromisoformat(content["before"])
            if not all(name.isalnum() for name in users):
                raise ValueError("a name is no hash")
            return cls(users, before)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForgottenError(NOT_FORGOTTEN(file=path, reason=error)) from None


def alone(folder: Path) -> AbstractContextManager[int]:
    """Keep others from forgetting in a folder until the end of the block; ForgottenError while another one does."""
    return locked(folder / _LOCK, ForgottenError(BUSY(folder=folder, what="`mtorl data forget`")))


def _literal(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.isoformat()}'"
