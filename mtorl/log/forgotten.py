"""Keeps a list of forgotten users, whose records must not be written to a folder or its subfolders.

    Forgotten.add(folder, ["u1"], now)                  # `mtorl data forget` calls this before it removes anything
    forgotten = Forgotten.of(folder / "lake")           # the lists of this folder and of all its parents
    forgotten.sql("decision")                           # DuckDB condition: true for a record that must not be written

Without the list, a router could restore a removed user, because routers upload records with a delay. The hashes in
the list do not hide users: with a user's id, anyone can look the user up.
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
    """Raised if the list of forgotten users can't be read, or another run has locked it."""


@dataclass(frozen=True)
class Forgotten:
    """A list of removed users, whose records must no longer be written."""

    # By `unit_hash`: the user's records from before this time are forgotten.
    users: Mapping[str, datetime] = field(default_factory=dict)
    # Records of all users from before this time are forgotten, too.
    before: datetime | None = None

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read and merge the lists of a folder and of all its parents.

        Raises:
            OSError: a list can't be read.
        """
        found, place = cls(), Path(folder).resolve()
        for path in (above / FILE for above in (place, *place.parents)):
            if path.exists():
                found = found._with(cls.parsed(path.read_text(encoding="utf-8"), str(path)))
        return found

    @classmethod
    def add(cls, folder: Path, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> None:
        """Add users to the list in an existing folder. The arguments are those of `extended`.

        Raises:
            OSError: the list can't be read or written.
        """
        path = folder / FILE
        known = cls.parsed(path.read_text(encoding="utf-8"), str(path)) if path.exists() else cls()
        if (after := known.extended(user_ids, until, before)) != known:
            with replacing(path, durable=True) as unfinished:
                unfinished.write_text(after.text(), encoding="utf-8")

    def extended(self, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> Self:
        """Return a copy of the list with more users, or with a later limit for all users.

        Args:
            until: Records of these users from before this time are forgotten.
            before: Records of all users from before this time are forgotten. None means no limit.
        """
        return self._with(type(self)(dict.fromkeys(map(unit_hash, user_ids), until), before))

    def text(self) -> str:
        """Return the list as the content of a `forgotten.json` file."""
        users = {name: time.isoformat() for name, time in sorted(self.users.items())}
        return json.dumps({"before": self.before and self.before.isoformat(), "users": users}, indent=1) + "\n"

    def __bool__(self) -> bool:
        return bool(self.users) or self.before is not None

    def has(self, user_id: str, at: datetime) -> bool:
        """Return whether a record of this user at this time must not be written."""
        until = self.users.get(unit_hash(user_id))
        return (until is not None and at < until) or (self.before is not None and at < self.before)

    def sql(self, kind: Kind) -> str:
        """Return an SQL condition that is true for records that must not be written, and false for all others."""
        clauses = [] if self.before is None else [f"event_time < {_literal(self.before)}"]
        together = defaultdict(list)
        for name, time in self.users.items() if kind in ("decision", "window") else ():
            together[time].append(f"'{name}'")
        clauses += [f"(event_time < {_literal(t)} AND unit_hash IN ({', '.join(us)}))" for t, us in together.items()]
        return f"coalesce({' OR '.join(clauses)}, false)" if clauses else "false"

    def _with(self, other: Self) -> Self:
        users = dict(self.users)
        for name, time in other.users.items():
            users[name] = max(time, users.get(name, time))
        before = max((time for time in (self.before, other.before) if time is not None), default=None)
        return type(self)(users, before)

    @classmethod
    def parsed(cls, text: str, path: str) -> Self:
        """Parse the text of a `forgotten.json` file.

        Raises:
            ForgottenError: the text was not written by this class.
        """
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
    """Lock the list of forgotten users in a folder until the end of the `with` block.

    Raises:
        ForgottenError: another run has locked the list.
    """
    return locked(folder / _LOCK, ForgottenError(BUSY(folder=folder, what="`mtorl data forget`")))


def _literal(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.isoformat()}'"
