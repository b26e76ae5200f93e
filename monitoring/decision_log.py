"""The decision log of a period, as verdict and monitor read it: `decisions.parquet` and `outcomes.parquet`.

    log = DecisionLog.in_folder("runs/latest/decision_log", Period(since="2026-11-01T00:00:00Z"))
    sample, size = log.context(most_rows=20_000)      # what the policy read, for the drift check

`mtorl.log.records` defines the fields of the records.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from mtorl.drift.reference import MIN_USERS
from mtorl.drift.thresholds import Size
from mtorl.experiment.arm import HOLDOUT
from mtorl.log.records import (
    ID_FIELD,
    MODEL_NAME,
    UNNAMED,
    Kind,
    each_record,
    one_record_each,
    sql_columns,
    this_version,
)
from mtorl.log.touchpoints import LogError, saying_what_was_removed
from mtorl.runtime.files import naming_full_disk
from mtorl.runtime.progress import without_progress_bar

if TYPE_CHECKING:
    import duckdb

_MEMORY_LIMIT = "400MB"
_THREADS = (
    2  # each takes memory of its own, some 100 MB: one for each core of a large node would not fit into the limit
)

_EXPORTED = re.compile(r"((?:decision|outcome|shadow)-\d{8})-(\d+)")
"""A folder of `serving.decision_log.export.export_segments`: the segment, and its size when it was exported."""


@dataclass(frozen=True)
class Period:
    """A stretch of time between two ISO times; an empty text is no bound."""

    since: str = ""  # inclusive
    until: str = ""  # exclusive

    def condition(self, margin_hours: int = 0) -> str:
        """SQL condition on a record's event time, with the parameters $since and $until.

        Args:
            margin_hours: Widens the period at both ends.
        """
        # A bound that is not there is no part of a comparison with the time, so that DuckDB can pass over whole files:
        # of a log of years, a period is a day.
        at, margin = "CAST(event_time AS TIMESTAMPTZ)", f"INTERVAL {margin_hours} HOUR"
        since = f"{at} >= CAST($since AS TIMESTAMPTZ) - {margin}" if self.since else "$since = ''"
        until = f"{at} < CAST($until AS TIMESTAMPTZ) + {margin}" if self.until else "$until = ''"
        return f"{since} AND {until}"

    def parameters(self) -> dict[str, str]:
        """Values of the condition's parameters."""
        return {"since": self.since, "until": self.until}


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with limits on memory and threads, for a log of any size.

    What does not fit is sorted on disk, in the folder for temporary files: the current one may be read-only. A period's
    bounds without a zone are UTC.

    Raises:
        LogError: A file of the log was removed while it was read, or a record has another version of the schema.
    """
    import duckdb

    with (
        naming_full_disk(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory() as scratch,
        duckdb.connect(
            Path(scratch, "tables"),
            config={"memory_limit": _MEMORY_LIMIT, "threads": _THREADS, "temp_directory": scratch},
        ) as db,
        saying_what_was_removed(),
    ):
        db.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        without_progress_bar(db)
        try:
            yield db
        except duckdb.InvalidInputException as error:
            if "of schema version" in str(error):
                raise LogError(str(error).removeprefix("Invalid Input Error: ")) from None
            raise


def open_records(db: duckdb.DuckDBPyConnection, kind: Kind, files: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    """The records of Parquet files; an empty relation without any file."""
    if files:
        records = db.from_parquet([str(file) for file in files], union_by_name=True)
        return records.filter(this_version(kind)) if "schema_version" in records.columns else records
    columns = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in sql_columns(kind).items())
    return db.sql(f"SELECT {columns} WHERE false")


def find_overridden(db: duckdb.DuckDBPyConnection, name: str, salt: str | None) -> None:
    """Make the table `overridden`: users whose arm the experiment's file has named (`user_id`), and `since` when.

    None of their decisions counts from then on. Earlier ones were randomised and count: otherwise naming a user would
    choose whose outcomes count.

    Args:
        salt: Of the experiment; None: any.
    """
    db.execute(
        f"""CREATE TABLE overridden AS SELECT user_id, min(CAST(event_time AS TIMESTAMPTZ)) AS since
        FROM ({each_record("decision", "decision_log")})
        WHERE override AND experiment = $name AND ($salt IS NULL OR coalesce(salt, $salt) = $salt) GROUP BY user_id""",
        {"name": name, "salt": salt},
    )


def _newest(files: Iterable[Path]) -> tuple[Path, ...]:
    """Leaves out superseded exports of segments that have grown: the export removes them some minutes later."""
    newest: dict[Path, tuple[int, Path]] = {}
    for file in files:
        path, size = file, 0
        if exported := _EXPORTED.fullmatch(path.parent.name):
            path, size = path.parent.with_name(exported[1]) / path.name, int(exported[2])
        newest[path] = max(newest.get(path, (-1, file)), (size, file))
    return tuple(sorted(file for _, file in newest.values()))


def one_record_each_of_few_copies(db: duckdb.DuckDBPyConnection, kind: Kind, relation: str) -> str:
    """The query of `mtorl.log.records.one_record_each`, for a large log with few copies: it sorts only those.

    Makes the table `KIND_copy`: the ids that come more than once, and their `first_time`. Hashes are counted first:
    they take a fraction of the time and memory of the ids.
    """
    id_ = ID_FIELD[kind]
    db.execute(
        f"""CREATE TABLE {kind}_copy AS SELECT {id_}, min(CAST(event_time AS TIMESTAMPTZ)) AS first_time
        FROM {relation} WHERE hash({id_}) IN (
            SELECT hash({id_}) FROM {relation} GROUP BY hash({id_}) HAVING count(*) > 1)
        GROUP BY {id_} HAVING count(*) > 1"""
    )
    return of_few_copies(kind, relation)


def of_few_copies(kind: Kind, relation: str) -> str:
    """The query of `one_record_each_of_few_copies`, once its table is there."""
    id_ = ID_FIELD[kind]
    alone, copies = (f"(FROM {relation} {join} JOIN {kind}_copy USING ({id_}))" for join in ("ANTI", "SEMI"))
    return f"{each_record(kind, alone)} UNION ALL BY NAME {one_record_each(kind, copies)}"


def _object(text: str) -> dict[str, Any]:
    """A JSON object of a record."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LogError(f"a decision's record holds {text[:80]!r} where a JSON object belongs")
    return found


@dataclass(frozen=True)
class DecisionLog:
    """Decisions and outcomes of a period.

    In a replay of a real log most outcomes are not known, so each decision has a weight (0 if it has none); None for
    live traffic.
    """

    decisions: tuple[Path, ...]  # files
    outcomes: tuple[Path, ...]
    period: Period = Period()
    weights: Path | pd.DataFrame | None = None  # decision_id, weight
    budget_per_decision: float | None = None  # currency units of either arm in a replay; None: the ledger holds budgets
    shadows: tuple[Path, ...] = ()  # what challengers decided in the shadow
    read_as: str = ""  # SQL over `written_log`, the decisions as they were written: how they are read; empty: as that

    @classmethod
    def in_folder(
        cls,
        folder: str | Path,
        period: Period = Period(),
        weights: Path | pd.DataFrame | None = None,
        budget_per_decision: float | None = None,
    ) -> DecisionLog:
        """A log as `serving.decision_log.export` writes it, with the files that are there now.

        The list of files is fixed here: a router may export between two queries, and their figures would contradict
        each other.

        Args:
            folder: Holds the files, or folders with them for each router and segment.
        """
        decisions, outcomes, shadows = (_newest(Path(folder).rglob(f"{kind}s.parquet")) for kind in get_args(Kind))
        return cls(decisions, outcomes, period, weights, budget_per_decision, shadows)

    @contextmanager
    def opened(self, *kinds: Kind) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database with the view `decision_log`, and `outcome_log` or `shadow_log` for these kinds."""
        files = {"outcome": self.outcomes, "shadow": self.shadows}
        with database() as db:
            written = open_records(db, "decision", self.decisions)
            written.create_view("written_log" if self.read_as else "decision_log")
            if self.read_as:
                db.execute(f"CREATE VIEW decision_log AS {self.read_as}")
            for kind in kinds:
                open_records(db, kind, files[kind]).create_view(f"{kind}_log")
            yield db

    def holds_any(self) -> bool:
        """Whether any decision falls into the period."""
        return self._first("1") is not None

    def records(self) -> int:
        """Number of decision records in the period, copies included."""
        return int(self._first("count(*)"))

    def first_time(self) -> datetime | None:
        """Time of the first decision in the period; None: there is none."""
        first = self._first("min(CAST(event_time AS TIMESTAMPTZ))")
        return None if first is None else first.astimezone(UTC)

    def _first(self, value: str) -> Any:
        """The first row's value (SQL) of the period's records."""
        query = f"SELECT {value} FROM decision_log WHERE {self.period.condition()} LIMIT 1"
        with self.opened() as db:
            row = db.execute(query, self.period.parameters()).fetchone()
        return row and row[0]

    def context(self, most_rows: int) -> tuple[pd.DataFrame, Size]:
        """Context columns of the decisions of a sample of the users, and the size of the whole period.

        A context has all columns of the data set, unknown values included. Decisions with other columns than the newest
        decision were taken before the data set changed and do not count; the size is then that of what is returned.

        Args:
            most_rows: About how many rows to read at most. A hash chooses whole users, the same in every period; of a
                user with very many decisions (a robot, one id for all anonymous visitors), only a part is read.
        """
        return self._sample("context", "context IS NOT NULL", most_rows)

    def static(self, most_rows: int) -> tuple[pd.DataFrame, Size]:
        """The same for the static columns that the feature store had of each user."""
        return self._sample("features->>'$.static'", "features_found AND features IS NOT NULL", most_rows)

    def _sample(self, columns: str, known: str, most_rows: int) -> tuple[pd.DataFrame, Size]:
        """Rows of a JSON object in the records (SQL: `columns`) of the decisions that have one (`known`)."""
        with self.opened() as db:

            def decisions(users: str = "true") -> str:
                # A period is a small part of a log: sought are only records of its decisions. One that withdraws a
                # decision is made while its request is still being answered, perhaps after the end of the period.
                near = f"(FROM decision_log WHERE {self.period.condition(margin_hours=1)} AND {users})"
                return f"({one_record_each('decision', near)}) WHERE {self.period.condition()} AND {known}"

            # The texts of the columns are large: they are read of the sample alone.
            counted = db.execute(
                f"SELECT count(*), count(DISTINCT user_id) FROM {decisions()}", self.period.parameters()
            ).fetchone()
            rows, users = counted or (0, 0)
            chosen = f"hash(user_id) / 18446744073709551616.0 < {most_rows / max(rows, most_rows)!r}"
            number = "row_number() OVER (PARTITION BY user_id ORDER BY hash(decision_id))"
            sample = db.execute(
                f"""SELECT user_id, {columns} AS text FROM {decisions(chosen)}
                QUALIFY {number} <= {most_rows // MIN_USERS} ORDER BY event_time, decision_id""",
                self.period.parameters(),
            ).df()
        sample = sample.dropna(subset=["text"])
        table = pd.DataFrame(objects := [_object(text) for text in sample["text"]], index=sample.index)
        read = pd.concat([sample[["user_id"]], table], axis=1)
        newest = [each.keys() == objects[-1].keys() for each in objects]
        if all(newest):
            return read, Size(users, rows)
        read = read.loc[newest, ["user_id", *objects[-1]]]
        return read, Size(read["user_id"].nunique(), len(read))

    def models(self) -> list[str]:
        """Digests of the models of all arms, the newest first: challenger, other arms, shadow.

        Models in the shadow count as well: while the incumbent is a rule of the platform, the challenger's model
        answers there alone.
        """
        # A clock that was ahead does not say what serves.
        then = f"model_digest IS NOT NULL AND {self.period.condition()} AND CAST(event_time AS TIMESTAMPTZ) <= now()"
        with self.opened("shadow") as db:
            found = db.execute(
                f"""WITH answered AS (
                    SELECT model_digest, if(arm = 'challenger', 2, 1) AS place, event_time
                    FROM ({each_record("decision", "decision_log")})
                    WHERE NOT override AND arm <> '{HOLDOUT}' AND {then}
                    UNION ALL
                    SELECT model_digest, 0, event_time FROM ({each_record("shadow", "shadow_log")}) WHERE {then})
                SELECT model_digest FROM answered GROUP BY model_digest ORDER BY max((place, event_time)) DESC""",
                self.period.parameters(),
            ).fetchall()
        return [str(digest) for (digest,) in found]

    def newest_policy(self, arm: str) -> tuple[str | None, str] | None:
        """Digest, if it gives one, and name of the policy that took an arm's newest decision."""
        with self.opened() as db:
            found: tuple[str | None, str] | None = db.execute(
                f"""SELECT model_digest, coalesce({MODEL_NAME}, '{UNNAMED}')
                FROM ({each_record("decision", "decision_log")})
                WHERE arm = $arm AND NOT override AND (fallback_reason IS NULL OR model_digest IS NOT NULL)
                AND {self.period.condition()} AND CAST(event_time AS TIMESTAMPTZ) <= now()
                ORDER BY event_time DESC LIMIT 1""",
                {**self.period.parameters(), "arm": arm},
            ).fetchone()
        return found
