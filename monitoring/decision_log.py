"""Reads the decision log from the lake, the folder or bucket to which the routers upload their log files."""

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
# Largest difference between a record's `event_time` and the hour of its log file.
_MARGIN = HOUR


class PeriodError(InputError):
    """Raised if a period is invalid or has no usable decisions."""


@dataclass(frozen=True)
class Period:
    """A time interval. A bound of None means no limit on that side."""

    since: datetime | None = None  # inclusive
    until: datetime | None = None  # exclusive

    @classmethod
    def of(cls, since: str = "", until: str = "") -> Self:
        """Create a period from two ISO times, in UTC by default; an empty text means no limit.

        Raises PeriodError for a text that is not an ISO time.
        """
        bounds: dict[str, datetime | None] = {}
        for name, text in {"since": since, "until": until}.items():
            try:
                at = datetime.fromisoformat(text) if text else None
            except ValueError:
                raise PeriodError(messages.NOT_A_TIME(name=name, text=text)) from None
            bounds[name] = at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
        return cls(**bounds)

    def condition(self) -> str:
        """Return an SQL condition that selects the records of the period."""
        bounds = ((">=", self.since), ("<", self.until))
        return " AND ".join(f"event_time {than} {instant(at)}" for than, at in bounds if at) or "true"

    def hours(self) -> tuple[datetime | None, datetime | None]:
        """Return the first and last hour whose log files may contain decisions of the period."""
        since = self.since and self.since.replace(minute=0, second=0, microsecond=0) - _MARGIN
        return since, self.until and self.until + _MARGIN


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LogError(f"a decision's record holds {text[:80]!r} where a JSON object belongs")
    return found


@dataclass(frozen=True)
class DecisionLog:
    """The decisions and outcomes of a period, as logged by the routers.

    Attributes:
        weights: Weights of the decisions in a replay, as a table with `decision_id` and `weight`. Other decisions have
            weight 0. None for live traffic.
        budget_per_decision: Budget of each arm in a replay, in currency units per decision.
    """

    lake: Lake
    period: Period = Period()
    weights: pd.DataFrame | None = None
    budget_per_decision: float | None = None

    @classmethod
    def of(cls, lake: Lake | str | Path, period: Period = Period()) -> Self:
        """Open the log in a lake, a folder or a URI. Raises LogError if there is no lake.

        All queries read the same files, even if routers upload new files meanwhile.
        """
        lake = lake if isinstance(lake, Lake) else Lake.open(lake)
        return cls(lake.fixed(), period)

    @contextmanager
    def opened(self, *kinds: Kind, near: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a database with the view `decision_log`, and a further view, such as `outcome_log`, for each of `kinds`.

        Args:
            near: Whether to skip the log files of hours outside the period.
        """
        hours = self.period.hours() if near else (None, None)
        with lake_database(self.lake, _MEMORY_LIMIT) as db:
            for kind in ("decision", *kinds):
                db.execute(f"CREATE VIEW {kind}_log AS FROM {self.lake.records(db, kind, *hours)}")
            yield db

    def holds_any(self) -> bool:
        """Return whether the log has any decision in the period."""
        return self._first("1") is not None

    def records(self) -> int:
        """Count the decisions in the period."""
        return int(self._first("count(*)"))

    def first_time(self) -> datetime | None:
        """Return the time of the period's first decision; None if there is no decision."""
        first = self._first("min(event_time)")
        return first and first.astimezone(UTC)

    def _first(self, value: str) -> Any:
        with self.opened(near=True) as db:
            row = db.execute(f"SELECT {value} FROM decision_log WHERE {self.period.condition()} LIMIT 1").fetchone()
        return row and row[0]

    def sample(self, columns: Literal["context", "static"], most_rows: int) -> tuple[pd.DataFrame, Size]:
        """Read the policy's input columns for a sample of the period's users.

        The users are selected by a hash of their id, so that all periods sample the same users. If the log's columns
        have changed during the period, only decisions with the newest columns are returned.

        Args:
            columns: "context" for the columns of the request, "static" for the columns from the feature store.
            most_rows: Approximate maximum number of rows.

        Returns:
            The sample with a column `user_id`, and the size of the whole period. If the columns have changed, the
            second value is the size of the sample.
        """
        found = "features_found" if columns == "static" else "true"
        where = f"{self.period.condition()} AND {found} AND {columns} IS NOT NULL"
        with self.opened(near=True) as db:
            # The JSON texts are large, so read only those of the sample.
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
        """List the digests of all models: the challenger's, other arms', then the shadow's, each the newest first."""
        # A router whose clock is ahead writes decisions with a time in the future. Ignore them, because otherwise their
        # model would seem to be the newest.
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
        """Return digest and name of the policy that took the arm's newest decision; None without a decision.

        The digest is None if the policy has no model.
        """
        with self.opened(near=True) as db:
            found: tuple[str | None, str] | None = db.execute(
                f"""SELECT model_digest, coalesce({MODEL_NAME}, '{UNNAMED}') FROM decision_log
                WHERE arm = $arm AND NOT override AND (fallback_reason IS NULL OR model_digest IS NOT NULL)
                AND {self.period.condition()} AND event_time <= now()
                ORDER BY event_time DESC LIMIT 1""",
                {"arm": arm},
            ).fetchone()
        return found
