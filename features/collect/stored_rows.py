"""Applies the rules of `rules.py` to the decisions of a lake, and stores the results in the lake.

    decided = Decided(db, lake, spec, until)     # creates the view `every_decided`
    decided.judge()                              # creates the view `judged`, with outcomes

Results are not stored for hours that still receive decisions.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from features.collect.database import Database
from features.collect.rules import JUDGED, PLACE, REALISED, decided_query, observed_query, of_users, refused_query
from features.messages import REPLAYED
from mtorl.log.dataset import DatasetSpec
from mtorl.log.derived import Derived
from mtorl.log.lake import HOUR, REPLAY, Lake, LakeFile, hours_of, instant, sql_of
from mtorl.log.records import rank_among_copies
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress

MOST_SAMPLED = 20_000_000
"""Approximate limit for the decisions that are read for a report, and for the shares of wanted exposures that took
place. All decisions of a user are read or left out together."""
_NEVER = datetime.fromtimestamp(0, UTC)
_log = logging.getLogger(__name__)


class _Block(NamedTuple):
    since: datetime  # first hour of the block
    decisions: tuple[LakeFile, ...]

    @property
    def sources(self) -> list[str]:
        """Names of the files with the block's decisions, without the suffix that a removal of users changes."""
        return [file.name.partition(".")[0] for file in self.decisions]


class Decided:
    """Applies the rules of `rules.py` to the decisions of a lake, and creates views of the results in a database.

    Args:
        spec: Decisions of the last `outcome_hours` hours are left out, because outcomes may still arrive.
        until: Ignore decisions and outcomes from this time on. By default, all are read.

    Attributes:
        share: Share of the users whose decisions are read. It is below 1 if there are too many decisions.

    Raises:
        LogError: The lake has no decisions, contains records of another schema version, or was filled by a replay.
    """

    def __init__(self, db: Database, lake: Lake, spec: DatasetSpec, until: datetime | None = None) -> None:
        if not lake:
            raise LogError(
                f"{lake.place}: no decisions. Routers upload decisions each minute to the lake in their settings"
            )
        if lake.folder is not None and (lake.folder / REPLAY).exists():
            raise LogError(REPLAYED(lake=lake.place))
        self._db, self._spec, self.until = db, spec, until
        self._query = decided_query(spec)
        while not self._read(lake.fixed()):
            # Try again: a file was deleted during the read, because a user was forgotten or the file was too old.
            pass
        every = self._rows(self._starts, 1.0)
        db.view("every_decided", f"SELECT * FROM ({every}) AS rows WHERE {self._before('event_time')}")
        query = "SELECT count(*) AS decisions, max(event_time) AS newest FROM every_decided"
        ((count, newest),) = db.execute(query).fetchall()
        # A table is joined faster than a view, because DuckDB knows its number of rows.
        db.keep("refused_on", refused_query())
        self._newest = min(newest or datetime.now(UTC), datetime.now(UTC))  # a router's clock may be ahead
        self.share = min(1.0, MOST_SAMPLED / max(count, 1))

    def judge(self, share_of: Callable[[datetime], float] = lambda _: 1.0, others: str = "true") -> None:
        """Create the view `judged` (see `rules.JUDGED`) with the decisions and outcomes of a sample of users.

        Args:
            share_of: Function that returns the share of users to read from a block of hours, given its first hour.
            others: SQL condition for decisions to read although their user is not in the sample.
        """
        groups = [(share, list(starts)) for share, starts in groupby(self._starts, share_of)]
        ends = [starts[0] for _, starts in groups[1:]]
        rows = [self._rows(starts, share) for share, starts in groups]
        outcomes = [
            self.lake.records(self._db, "outcome", starts[0], end, where=of_users(share)[1])
            for (share, starts), end in zip(groups, [*ends, None], strict=True)
        ]
        chosen = f"{self._before('event_time')} AND ({of_users(self.share)[0]} OR {others})"
        self._db.view("decided", f"SELECT * FROM ({_together(rows)}) AS rows WHERE {chosen}")
        received = self._before("received_time")
        self._db.view("collected_outcome", f"SELECT * FROM ({_together(outcomes)}) AS rows WHERE {received}")
        mature = self._newest - timedelta(hours=self._spec.outcome_hours)
        self._db.keep("observed", observed_query(self._spec, mature, of_users(self.share)[0]))
        self._db.keep("realised", REALISED)
        self._db.view("judged", JUDGED)

    def _before(self, time: str) -> str:
        return f"{time} < {instant(self.until)}" if self.until else "true"

    def _read(self, lake: Lake) -> bool:
        """Compute the results that are not stored yet. Returns False if a file was deleted meanwhile."""
        self.lake = lake
        fresh, blocks = self._blocks()
        derived = Derived(lake, "judged", self._spec.name, [self._query, rank_among_copies("decision")])
        self._files = {block.since: derived.files(block.since, block.sources) for block in blocks}
        known = {file for files in self._files.values() for file in files}
        blocks = [block for block in blocks if self.until is None or block.since < self.until + HOUR]
        missing = [block for block in blocks if not self._files[block.since]]
        try:
            self._fresh = fresh | self._store_all(derived, missing)
            self._judge_fresh()
        finally:
            lost = lake.lost()
            for block in missing:
                if not lost.isdisjoint(file.name for file in block.decisions):
                    for file in self._files[block.since]:
                        lake.delete(file.name)
        stored = {block.since for block in blocks if self._files[block.since]}
        self._starts = sorted(stored | self._fresh or {_NEVER})
        derived.supersede(known)
        return not lost

    def _blocks(self) -> tuple[set[datetime], list[_Block]]:
        """Return the hours that still receive decisions, and group all other hours into blocks."""
        fresh = hours_of(self._db, self.lake.arrived("decision"))
        blocks: list[_Block] = []
        for hour, files in groupby(self.lake.closed("decision"), lambda file: file.hour):
            if hour in fresh:
                continue
            block = _Block(hour, tuple(files))
            if blocks and blocks[-1].since.date() == hour.date():
                both = _Block(blocks[-1].since, blocks[-1].decisions + block.decisions)
                apart = any(both.since < between < hour for between in fresh)
                if not apart and sum(file.size for file in both.decisions) <= self._db.part_bytes:
                    blocks[-1] = both
                    continue
            blocks.append(block)
        return fresh, blocks

    def _store_all(self, derived: Derived, blocks: Sequence[_Block]) -> set[datetime]:
        """Store the results of several blocks, and return the hours of blocks that could not be written."""
        for number, block in enumerate(blocks):
            progress.report(number, len(blocks), f"judging decisions of {block.since:%Y-%m-%d}")
            try:
                names = self._store(derived, block)
            except OSError as error:
                _log.warning("%s: can't store decisions, so each read judges them again: %s", self.lake.place, error)
                return {file.hour for late in blocks[number:] for file in late.decisions}
            self._files[block.since] = [LakeFile(block.since, name, 0) for name in names]
        return set()

    def _store(self, derived: Derived, block: _Block) -> list[str]:
        records = self.lake.of_files(block.decisions, (), arrived=False).records(self._db, "decision")
        self._db.view("collected_decision", f"SELECT * FROM {records} AS record")
        return self._db.write_hours(
            f"SELECT * EXCLUDE (hour), {instant(block.since)} AS hour FROM ({self._query}) AS rows",
            (PLACE, "decision_id"),
            lambda _, number, of: derived.name(block.since, block.sources, number, of),
            lambda rows: f"SELECT * FROM {rows}",
        )

    def _judge_fresh(self) -> None:
        lake = self.lake if self._fresh else self.lake.of_files((), (), arrived=False)
        since, until = min(self._fresh, default=None), max(self._fresh, default=None)
        records = lake.records(self._db, "decision", since, until and until + HOUR, where=_of_hours(self._fresh))
        self._db.view("collected_decision", f"SELECT * FROM {records} AS record")
        self._db.keep("fresh_decided", self._query)

    def _rows(self, starts: list[datetime], share: float) -> str:
        some = of_users(share)[0]
        files = [file for since in starts for file in self._files.get(since, ())]
        fresh = f"SELECT * FROM fresh_decided WHERE {_of_hours(self._fresh & set(starts))} AND {some}"
        return f"SELECT * FROM {sql_of(files)} WHERE {some} UNION ALL {fresh}" if files else fresh


def _together(queries: Sequence[str]) -> str:
    return " UNION ALL ".join(f"SELECT * FROM ({query}) AS part" for query in queries)


def _of_hours(hours: set[datetime]) -> str:
    return f"hour IN ({', '.join(map(instant, sorted(hours)))})" if hours else "false"
