"""Writes what a training reads of the lake's decisions: touchpoints, added to a log, and opportunities.

    print(learnable("lake", spec))                       # how many decisions teach something, and how much
    add_decisions("lake", "data")                        # data: a folder of `features.ingest.log_folder.ingest`

    data/touchpoints.parquet       the log, and every exposure that took place
    data/opportunities.parquet     every decision that a policy's value can rest on (`rules.py`)

Learning from the newest exposures alone breaks the heads within a generation, because whether MTORL exposes depends on
what it expects. So a first log of wide choices stays in every training. Added exposures are marked as `collected`: the
heads of reward and cost learn from them; the action head, the prior of the decision rule, does not, for it would
confirm its own choices.

The window of an opportunity is the one that the policy saw. It is kept for users of the validation and test parts only:
training reads the log. Of many touchpoints, or opportunities, those of some users are here, chosen by hashes, so that
neither a training's memory nor its files grow with all decisions; `ingest.json` has the share.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.database import Database, open_database, table
from features.collect.pruning import Bound, bound, of_some_users
from features.collect.report import Learnable, learnable_of
from features.collect.rules import SAMPLED, of_users
from features.collect.snapshot import Snapshot
from features.collect.stored_rows import Decided
from features.engine import batches, name_of, parquet_files
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import HOUR, Lake, instant
from mtorl.log.opportunities import MOST_CONTEXTS, MOST_TOUCHPOINTS, MOST_WINDOWS, OPPORTUNITIES_FILE
from mtorl.log.splits import SHARES, fractions_of, split_of
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE, fingerprint, schema
from mtorl.log.trainings import READ, days_of
from mtorl.runtime import progress

_OPPORTUNITY = f"left_out IS NULL AND {SAMPLED}"
_SQL = {
    "string": "VARCHAR",
    "double": "DOUBLE",
    "int64": "BIGINT",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
    "bool": "BOOLEAN",
}


@dataclass(frozen=True)
class Decisions:
    """Selects decisions of a lake.

    Attributes:
        outcome_hours: Younger ones are no opportunities: their outcomes may still come.
        until: Only those before this time, with the outcomes that were received before it; None for all.
        most_touchpoints: About how many touchpoints a training should read, the log's included (`pruning.py`); 0: all.
    """

    outcome_hours: float = 0.0
    until: datetime | None = None
    most_touchpoints: int = MOST_TOUCHPOINTS

    @classmethod
    def mature(cls, folder: Path, snapshot: str, most_touchpoints: int = MOST_TOUCHPOINTS) -> Decisions:
        """Decisions of a snapshot, old enough for all their outcomes, by the description in a log's folder."""
        hours = DatasetSpec.load(folder / DATASET_FILE).outcome_hours
        return cls(hours, Snapshot.parsed(snapshot).until, most_touchpoints)


def learnable(place: str | Path, spec: DatasetSpec, which: Decisions = Decisions(), engine: str = "") -> Learnable:
    """Sum up what the decisions of a lake teach; raises a `LogError` if it holds none."""
    lake = Lake.open(place)
    with open_database(lake, engine) as db:
        decided = Decided(db, lake, spec, which.until)
        decided.judge(which.outcome_hours, lambda _: decided.share)
        return learnable_of(db, spec, decided.share)


def add_decisions(
    place: str | Path,
    folder: str | Path,
    which: Decisions = Decisions(),
    engine: str = "",
    log: str | Path | None = None,
) -> Learnable:
    """Add the decisions of a lake to a log's folder, which has touchpoints.parquet, dataset.yaml and ingest.json.

    The log to add to, a file or a folder of parts, is the folder's own or `log`.
    """
    data = Path(folder)
    first = data / LOG_FILE if log is None else Path(log)
    spec = DatasetSpec.load(data / DATASET_FILE)
    lake = Lake.open(place)
    with open_database(lake, engine) as db:
        decided = Decided(db, lake, spec, which.until)
        progress.report(0, 3, "adding outcomes")
        decided.judge(which.outcome_hours, lambda _: decided.share)
        names, channels = pq.read_schema(parquet_files(first)[0]).names, len(spec.channels)
        of = bound(db, decided, table(parquet_files(first)), "propensity" in names, channels, which.most_touchpoints)
        if decided.share < 1:  # of some generations, more users are read
            decided.judge(which.outcome_hours, of.share_of, of.of_judged)
        _write_opportunities(db, decided, spec, data / OPPORTUNITIES_FILE)
        progress.report(1, 3, "touchpoints")
        days = days_of(first) if of.rows > which.most_touchpoints else None
        _add_touchpoints(db, spec, first, data / LOG_FILE, of)
        progress.report(2, 3, "what can be learned")
        pruned = 0 if days is None else of.rows - _rows_of(data / LOG_FILE)
        found = replace(learnable_of(db, spec, decided.share), pruned=pruned)
        _note(db, data, of.rows, days, collected=asdict(found))
    progress.report(3, 3, "done")
    return found


def bound_touchpoints(folder: str | Path, most: int, engine: str = "") -> str:
    """Keep about so many touchpoints (0: all) of a log without decisions, those of whole users; says it in words."""
    log = Path(folder) / LOG_FILE
    rows = _rows_of(log)
    if not 0 < most < rows:
        return f"{rows:,} touchpoints"
    with open_database(Lake.open(folder), engine) as db:
        days = days_of(log)
        touchpoints = f"SELECT * FROM {table(parquet_files(log))} WHERE {of_some_users(most / rows)}"
        db.write(touchpoints, log, order=("user_id", "timestamp"))
        _note(db, Path(folder), rows, days)
    return f"{_rows_of(log):,} of {rows:,} touchpoints, of users that a hash chooses: more than most_touchpoints"


def _write_opportunities(db: Database, decided: Decided, spec: DatasetSpec, path: Path) -> None:
    most = {"train": MOST_CONTEXTS, "val": MOST_WINDOWS, "test": MOST_WINDOWS}
    ((rows,),) = db.execute(f"SELECT count(*) AS decisions FROM judged WHERE {_OPPORTUNITY}").fetchall()
    # The names of all users need not fit in memory: these are enough for each part.
    enough = 1.2 * max(most[part] / share for part, share in SHARES)
    here, of_records = of_users(decided.share * enough / max(rows, 1))
    known = decided.lake.records(db, "window", until=decided.until and decided.until + HOUR, where=of_records)
    before = f"WHERE event_time < {instant(decided.until)}" if decided.until else ""
    db.view("collected_window", f"SELECT * FROM {known} AS record {before}")
    db.add("part_of", _users_of_opportunities(db, most, here))
    gained = "".join(f"if(exposed, {name_of(kind)}, 0) AS {name_of(kind)}, " for kind in spec.outcome_kinds)
    own = gained + "".join(f"{name_of(column.name)}, " for column in spec.context)
    # A window is larger than a decision: they are read for these users alone.
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
    """Users and their parts of the split, chosen by hashes if they have too many opportunities.

    Of the validation and test parts only users whose windows were logged count.
    """
    counted = db.execute(
        f"""SELECT user_id, count(*) AS decisions, count(w.decision_id) AS windows FROM judged LEFT JOIN (
            SELECT decision_id FROM collected_window) AS w ON w.decision_id = judged.decision_id
        WHERE {_OPPORTUNITY} AND {here} GROUP BY user_id"""
    ).fetchall()
    users = pd.DataFrame(counted, columns=["user_id", "rows", "windows"])
    users["split"] = split_of(users["user_id"])
    chosen = []
    for part, there in users.groupby("split"):
        rows_of = there["rows"] if part == "train" else there["windows"]
        there, share = there[rows_of > 0], most[str(part)] / max(rows_of.sum(), 1)
        chosen.append(there[fractions_of(there["user_id"], "opportunities") < share])
    parts = pa.schema([("user_id", pa.string()), ("split", pa.string())])
    return pa.Table.from_pandas(pd.concat([users[:0], *chosen])[parts.names], parts, preserve_index=False)


def _add_touchpoints(db: Database, spec: DatasetSpec, log_path: Path, out: Path, of: Bound) -> None:
    """Write a log, a file or a folder of parts, and the exposures as one table.

    A column that no record has is null.
    """
    log = parquet_files(log_path)
    there = pq.read_schema(log[0]).names
    types = schema(spec, [*there, COLLECTED])
    own = {column.name for column in (*spec.context, *spec.static)}
    times = spec.outcome_times.values()
    judged = {"user_id", "timestamp", "campaign_id", "channel", "propensity", *spec.outcome_kinds, *times, *own}

    def typed(names: Collection[str], collected: str) -> str:
        others = {COLLECTED: collected}
        values = {f: name_of(f.name) if f.name in names else others.get(f.name, "NULL") for f in types}
        return ", ".join(f"CAST({v} AS {_SQL[str(f.type)]}) AS {name_of(f.name)}" for f, v in values.items())

    db.write(
        f"""SELECT {typed(there, "false")} FROM {table(log)} WHERE {of.of_log} UNION ALL
        SELECT {typed(judged, "true")} FROM judged WHERE touchpoint AND {of.of_judged}""",
        out,
        order=("user_id", "timestamp"),
    )


def _rows_of(log: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in parquet_files(log))


def _note(db: Database, data: Path, rows: int, days: Mapping[str, int] | None, **more: Any) -> None:
    """Complete what was noted of a log.

    Args:
        rows: Touchpoints before the bound.
        days: Those of the log, a day; None: all were kept.
    """
    path, log = data / INGEST_FILE, data / LOG_FILE
    ((users,),) = db.execute(f"SELECT count(DISTINCT user_id) FROM {table(parquet_files(log))}").fetchall()
    kept, report = _rows_of(log), json.loads(path.read_text())
    report |= {"rows": kept, "users": int(users), "fingerprint": fingerprint(batches(log)), **more}
    if days is not None:
        report[READ] = {"share": kept / rows, "days": days}
    path.write_text(json.dumps(report, indent=2))
