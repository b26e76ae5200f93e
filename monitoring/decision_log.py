"""Reads the decision log of a period from the lake, for verdict and monitor.

    log = DecisionLog.of("runs/latest/lake", Period.of(since="2026-11-01T00:00:00Z"))
    sample, size = log.sample("context", most_rows=20_000)      # the policy's inputs, for the drift check

`mtorl.log.records` defines the fields of the records, and `mtorl.log.lake` their files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd

from monitoring import messages
from mtorl.drift.reference import MIN_USERS
from mtorl.drift.thresholds import Size
from mtorl.log.lake import HOUR, Lake, instant, lake_database
from mtorl.log.records import MODEL_NAME, UNNAMED, Kind
from mtorl.log.touchpoints import LogError
from mtorl.runtime.errors import InputError

if TYPE_CHECKING:
    import duckdb

_MEMORY_LIMIT = "400MB"
_MARGIN = HOUR  # largest difference between the time in a decision's id, which sets its file, and its record's


class PeriodError(InputError):
    """A period can't be judged; the message tells what to correct."""


@dataclass(frozen=True)
class Period:
    """An interval of time; None means unbounded."""

    since: datetime | None = None  # inclusive
    until: datetime | None = None  # exclusive

    @classmethod
    def of(cls, since: str = "", until: str = "") -> Self:
        """A period between two ISO times, in UTC if they have no zone; empty means unbounded. Raises PeriodError."""
        bounds: dict[str, datetime | None] = {}
        for name, text in {"since": since, "until": until}.items():
            try:
                at = datetime.fromisoformat(text) if text else None
            except ValueError:
                raise PeriodError(messages.NOT_A_TIME(name=name, text=text)) from None
            bounds[name] = at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
        return cls(**bounds)

    def condition(self) -> str:
        """SQL condition on a record's event time."""
        bounds = ((">=", self.since), ("<", self.until))
        return " AND ".join(f"event_time {than} {instant(at)}" for than, at in bounds if at) or "true"

    def hours(self) -> tuple[datetime | None, datetime | None]:
        """Bounds of the hours whose files may contain decisions of the period, for `Lake.records`."""
        since = self.since and self.since.replace(minute=0, second=0, microsecond=0) - _MARGIN
        return since, self.until and self.until + _MARGIN


def _object(text: str) -> dict[str, Any]:
    """Parse a JSON object in a record."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LogError(f"a decision's record holds {text[:80]!r} where a JSON object belongs")
    return found


@dataclass(frozen=True)
class DecisionLog:
    """Decisions and outcomes of a period."""

    lake: Lake
    period: Period = Period()
    weights: pd.DataFrame | None = None  # in a replay of a real log: decision_id, weight; no row: weight 0
    budget_per_decision: float | None = None  # currency units, each arm's in a replay; None: a ledger limits it

    @classmethod
    def of(cls, lake: Lake | str | Path, period: Period = Period()) -> Self:
        """The log in a lake (folder or URI), with the files that exist at its first query. Raises LogError.

        Later queries read the same files, so that the figures of one look are consistent.
        """
        lake = lake if isinstance(lake, Lake) else Lake.open(lake)
        return cls(lake.fixed(), period)

    @contextmanager
    def opened(self, *kinds: Kind, near: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database with the view `decision_log`, and `outcome_log` or `shadow_log` for these kinds. Copies no rows.

        Args:
            near: Whether to skip files that are clearly outside the period.
        """
        hours = self.period.hours() if near else (None, None)
        with lake_database(self.lake, _MEMORY_LIMIT) as db:
            for kind in ("decision", *kinds):
                db.execute(f"CREATE VIEW {kind}_log AS FROM {self.lake.records(db, kind, *hours)}")
            yield db

    def holds_any(self) -> bool:
        """Whether any decision falls into the period."""
        return self._first("1") is not None

    def records(self) -> int:
        """Number of decisions in the period."""
        return int(self._first("count(*)"))

    def first_time(self) -> datetime | None:
        """Time of the first decision in the period, or None if there is none."""
        first = self._first("min(event_time)")
        return first and first.astimezone(UTC)

    def _first(self, value: str) -> Any:
        """The first row's value (SQL) of the period's records."""
        with self.opened(near=True) as db:
            row = db.execute(f"SELECT {value} FROM decision_log WHERE {self.period.condition()} LIMIT 1").fetchone()
        return row and row[0]

    def sample(self, columns: Literal["context", "static"], most_rows: int) -> tuple[pd.DataFrame, Size]:
        """Context columns, or static columns from the feature store, of a sample of the decisions.

        A hash selects complete users, the same in every period, with about `most_rows` rows in total. Only a part of a
        user with very many decisions is read (a bot, one id for all anonymous visitors). If the data set has changed,
        only decisions with the newest columns are returned, and the size is that of the sample, not of the period.
        """
        found = "features_found" if columns == "static" else "true"
        where = f"{self.period.condition()} AND {found} AND {columns} IS NOT NULL"
        with self.opened(near=True) as db:
            # The texts of the columns are large, so they are read only for the sample.
            query = f"SELECT count(*), count(DISTINCT user_id) FROM decision_log WHERE {where}"
            ((rows, users),) = db.execute(query).fetchall()
            chosen = f"hash(user_id) / 18446744073709551616.0 < {most_rows / max(rows, most_rows)!r}"
            number = "row_number() OVER (PARTITION BY user_id ORDER BY hash(decision_id))"
            sample = db.execute(
                f"""SELECT user_id, {columns} AS text
                FROM {self.lake.records(db, "decision", *self.period.hours(), where=chosen)} WHERE {where}
                QUALIFY {number} <= {most_rows // MIN_USERS} ORDER BY event_time, decision_id"""
            ).df()
        table = pd.DataFrame(objects := [_object(text) for text in sample["text"]], index=sample.index)
        read = pd.concat([sample[["user_id"]], table], axis=1)
        newest = [each.keys() == objects[-1].keys() for each in objects]
        if all(newest):
            return read, Size(users, rows)
        read = read.loc[newest, ["user_id", *objects[-1]]]
        return read, Size(read["user_id"].nunique(), len(read))

    def models(self) -> list[str]:
        """Digests of the models of all arms, the newest first: challenger, other arms, shadow.

        Models in the shadow count as well: if the incumbent is a rule of the platform, a challenger in the shadow may
        be the only model.
        """
        # A record that is dated in the future, by a clock that was ahead, does not make its model the newest.
        then = f"model_digest IS NOT NULL AND {self.period.condition()} AND event_time <= now()"
        with self.opened("shadow", near=True) as db:
            found = db.execute(
                f"""WITH answered AS (
                    SELECT model_digest, if(arm = 'challenger', 2, 1) AS place, event_time
                    FROM decision_log WHERE NOT override AND {then}
                    UNION ALL SELECT model_digest, 0, event_time FROM shadow_log WHERE {then})
                SELECT model_digest FROM answered GROUP BY model_digest ORDER BY max((place, event_time)) DESC"""
            ).fetchall()
        return [str(digest) for (digest,) in found]

    def newest_policy(self, arm: str) -> tuple[str | None, str] | None:
        """Digest (None if its answers have none) and name of the policy that took an arm's newest decision."""
        with self.opened(near=True) as db:
            found: tuple[str | None, str] | None = db.execute(
                f"""SELECT model_digest, coalesce({MODEL_NAME}, '{UNNAMED}') FROM decision_log
                WHERE arm = $arm AND NOT override AND (fallback_reason IS NULL OR model_digest IS NOT NULL)
                AND {self.period.condition()} AND event_time <= now()
                ORDER BY event_time DESC LIMIT 1""",
                {"arm": arm},
            ).fetchone()
        return found
