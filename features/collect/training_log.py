"""Writes the tables of a training from the lake's decisions: touchpoints, added to a log, and opportunities.

    print(learnable("lake", spec))                       # how many decisions a policy can learn from
    add_decisions("lake", "data")                        # data: a folder of `features.ingest.log_folder.ingest`

    data/touchpoints.parquet       the log, and every exposure that took place
    data/opportunities.parquet     every decision that a policy's value can be estimated from (`rules.py`)

MTORL exposes only where it expects a gain. A model that learns from the newest exposures alone no longer predicts well
after one generation. So every training also reads a first log, in which all channels occur often. Added exposures are
marked `collected`. The parts of the model that predict reward and cost learn from them. The part that predicts the
action does not, because it would only confirm its own choices.

Each opportunity of the validation and test parts has the window that the policy saw. If there are too many touchpoints
or opportunities, the tables contain a sample of users, chosen by hash. The file `ingest.json` then records which share
of the rows was kept.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.database import Database, open_database, table
from features.collect.pruning import Bound, bound, of_some_users
from features.collect.rules import SAMPLED, of_users
from features.collect.stored_rows import Decided
from features.engine import facts_of, parquet_files, rows_of
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import HOUR, Lake, instant
from mtorl.log.opportunities import MOST_CONTEXTS, MOST_TOUCHPOINTS, MOST_WINDOWS, OPPORTUNITIES_FILE
from mtorl.log.splits import SHARES, fractions_of, split_of
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE, schema
from mtorl.log.trainings import READ, days_of
from mtorl.runtime import progress
from mtorl.runtime.sql import sql_name

_OPPORTUNITY = f"left_out IS NULL AND {SAMPLED}"
_SQL = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "int64": "BIGINT",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    "bool": "BOOLEAN",
}


@dataclass(frozen=True)
class Learnable:
    """Counts of the decisions that a training can use, and of the others. `str()` gives a readable summary.

    Attributes:
        opportunities: Number of decisions from which the value of a policy can be estimated.
        share: Share of the users whose decisions were counted.
    """

    decisions: int
    opportunities: int
    exposures: int
    left_out: dict[str, int]
    pruned: int = 0
    incomplete: int = 0
    share: float = 1.0

    def __str__(self) -> str:
        unknown = "a column with `missing: error` has no value; if that is allowed, set `missing: unknown`"
        lines = [
            *([f"for {self.share:.2%} of the users, chosen by hash:"] if self.share < 1 else []),
            f"{self.decisions:,} decisions: {self.opportunities:,} opportunities, "
            f"{self.exposures:,} exposures took place",
            *(f"left out, {reason}: {count:,}" for reason, count in self.left_out.items()),
            *([f"{self.pruned:,} touchpoints left out because of most_touchpoints"] if self.pruned else []),
            *([f"{self.incomplete:,} more exposures can't be used: {unknown}"] if self.incomplete else []),
        ]
        return "\n".join(lines)


def learnable(place: str | Path, spec: DatasetSpec, until: datetime | None = None, engine: str = "") -> Learnable:
    """Count the decisions of a lake from which a policy can learn. Decisions from `until` on are ignored.

    Raises:
        LogError: The lake has no decisions.
    """
    lake = Lake.open(place)
    with open_database(lake, engine) as db:
        decided = Decided(db, lake, spec, until)
        decided.judge(lambda _: decided.share)
        return _learnable(db, decided.share)


def add_decisions(
    place: str | Path,
    folder: str | Path,
    snapshot: str = "",
    most_touchpoints: int = MOST_TOUCHPOINTS,
    engine: str = "",
    log: str | Path | None = None,
) -> Learnable:
    """Add the decisions of a lake to the log in `folder`.

    Args:
        snapshot: Result of `Lake.snapshot`. Later uploads are ignored. By default, all records are used.
        most_touchpoints: Approximate limit for the touchpoints of the new log. 0 means no limit.
        log: Log to read instead of the one in `folder`.
    """
    data = Path(folder)
    spec = DatasetSpec.load(data / DATASET_FILE)
    lake, files = Lake.open(place), parquet_files(data / LOG_FILE if log is None else log)
    until = datetime.fromisoformat(snapshot.partition(" ")[0]) if snapshot else None
    with open_database(lake, engine) as db:
        decided = Decided(db, lake, spec, until)
        progress.report(0, 3, "adding outcomes")
        decided.judge(lambda _: decided.share)
        of = bound(db, decided, files, len(spec.channels), most_touchpoints)
        # The limit may keep more users of some models than the `share` that was read above.
        if decided.share < 1:
            decided.judge(of.share_of, of.of_judged)
        _write_opportunities(db, decided, spec, data / OPPORTUNITIES_FILE)
        progress.report(1, 3, "touchpoints")
        days = days_of(data / LOG_FILE if log is None else Path(log)) if of.rows > most_touchpoints else None
        _add_touchpoints(db, spec, files, data / LOG_FILE, of)
        progress.report(2, 3, "what can be learned")
        pruned = 0 if days is None else of.rows - rows_of(data / LOG_FILE)
        found = replace(_learnable(db, decided.share), pruned=pruned)
    _note(data, of.rows, days, collected=asdict(found))
    progress.report(3, 3, "done")
    return found


def _learnable(db: Database, share: float) -> Learnable:
    counts = db.execute(
        f"""SELECT left_out, count(*) AS decisions, count_if(touchpoint) AS shown, count_if(incomplete) AS lacking
        FROM judged WHERE {SAMPLED} GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    left_out = {str(reason): int(rows) for reason, rows, *_ in counts if reason is not None}
    decisions, exposures, incomplete = (int(sum(row[place] for row in counts)) for place in (1, 2, 3))
    return Learnable(decisions, decisions - sum(left_out.values()), exposures, left_out, 0, incomplete, share)


def bound_touchpoints(folder: Path, most: int) -> str:
    """Reduce a log to about `most` touchpoints by removing whole users. If `most` is 0, the log stays as it is."""
    log = folder / LOG_FILE
    rows = rows_of(log)
    if not 0 < most < rows:
        return f"{rows:,} touchpoints"
    days = days_of(log)
    with open_database(Lake.open(folder)) as db:
        touchpoints = f"SELECT * FROM {table(parquet_files(log))} WHERE {of_some_users(most / rows)}"
        db.write(touchpoints, log, order=("user_id", "timestamp"))
    _note(folder, rows, days)
    return f"{rows_of(log):,} of {rows:,} touchpoints, of users chosen by hash, because of most_touchpoints"


def _write_opportunities(db: Database, decided: Decided, spec: DatasetSpec, path: Path) -> None:
    most = {"train": MOST_CONTEXTS, "val": MOST_WINDOWS, "test": MOST_WINDOWS}
    ((rows,),) = db.execute(f"SELECT count(*) AS decisions FROM judged WHERE {_OPPORTUNITY}").fetchall()
    # The ids of all users may not fit in memory.
    enough = 1.2 * max(most[part] / share for part, share in SHARES)
    here, of_records = of_users(decided.share * enough / max(rows, 1))
    known = decided.lake.records(db, "window", until=decided.until and decided.until + HOUR, where=of_records)
    before = f"WHERE event_time < {instant(decided.until)}" if decided.until else ""
    db.view("collected_window", f"SELECT * FROM {known} AS record {before}")
    db.add("part_of", _users_of_opportunities(db, most, here))
    gained = "".join(f"if(exposed, {sql_name(kind)}, 0) AS {sql_name(kind)}, " for kind in spec.outcome_kinds)
    own = gained + "".join(f"{sql_name(column.name)}, " for column in spec.context)
    db.keep(
        "shown_window",
        """SELECT w.decision_id, w."window" AS features
        FROM collected_window AS w JOIN decided AS d ON d.decision_id = w.decision_id
        WHERE d.user_id IN (SELECT user_id FROM part_of WHERE split <> 'train') AND NOT d.withdrawn""",
    )
    db.write(
        f"""SELECT decision_id, user_id, timestamp, campaign_id, arm, generation, drawn_channel AS channel,
                   channel_probs, exposure_probs, exposed, {own} split, features
            FROM judged JOIN part_of USING (user_id) LEFT JOIN shown_window USING (decision_id)
            WHERE {_OPPORTUNITY}""",
        path,
    )


def _users_of_opportunities(db: Database, most: Mapping[str, int], here: str) -> pa.Table:
    """Sample the users whose opportunities are written, and assign each user to train, validation or test."""
    counted = db.execute(
        f"""SELECT user_id, count(*) AS decisions, count(w.decision_id) AS windows FROM judged LEFT JOIN (
            SELECT decision_id FROM collected_window) AS w ON w.decision_id = judged.decision_id
        WHERE {_OPPORTUNITY} AND {here} GROUP BY user_id"""
    ).fetchall()
    users = pd.DataFrame(counted, columns=["user_id", "rows", "windows"])
    users["split"] = split_of(users["user_id"])
    chosen = []
    for part, there in users.groupby("split"):
        rows = there["rows"] if part == "train" else there["windows"]
        there, share = there[rows > 0], most[str(part)] / max(rows.sum(), 1)
        chosen.append(there[fractions_of(there["user_id"], "opportunities") < share])
    parts = pa.schema([("user_id", pa.string()), ("split", pa.string())])
    return pa.Table.from_pandas(pd.concat([users[:0], *chosen])[parts.names], parts, preserve_index=False)


def _add_touchpoints(db: Database, spec: DatasetSpec, log: Sequence[Path], out: Path, of: Bound) -> None:
    there = pq.read_schema(log[0]).names
    types = schema(spec, [*there, COLLECTED])
    own = {column.name for column in (*spec.context, *spec.static)}
    own |= {*spec.outcome_kinds, *spec.outcome_times.values()}
    judged = {"user_id", "timestamp", "campaign_id", "channel", "propensity", *own}

    def typed(names: Collection[str], collected: str) -> str:
        values = {COLLECTED: collected} | {name: sql_name(name) for name in names}
        return ", ".join(
            f"CAST({values.get(f.name, 'NULL')} AS {_SQL[str(f.type)]}) AS {sql_name(f.name)}" for f in types
        )

    db.write(
        f"""SELECT {typed(there, "false")} FROM {table(log)} WHERE {of.of_log} UNION ALL
        SELECT {typed(judged, "true")} FROM judged WHERE touchpoint AND {of.of_judged}""",
        out,
        order=("user_id", "timestamp"),
    )


def _note(data: Path, rows: int, days: Mapping[str, int] | None, **more: Any) -> None:
    """Update the report `ingest.json` after the log has changed. `rows` is the number of rows before sampling."""
    report = json.loads((data / INGEST_FILE).read_text()) | facts_of(data / LOG_FILE) | more
    if days is not None:
        report[READ] = {"share": report["rows"] / rows, "days": days}
    (data / INGEST_FILE).write_text(json.dumps(report, indent=2))
