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
from features.collect.pruning import (
    LOG,
    generations_of,
    kept,
    kept_shares,
    of_some_users,
    squared_weight,
    squared_weight_of_log,
)
from features.collect.report import Learnable, learnable_of
from features.collect.rules import decisions_query
from features.collect.snapshot import LEARNT, Snapshot
from features.engine import batches, name_of, parquet_files, text
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import HOUR, Lake, instant
from mtorl.log.opportunities import MOST_CONTEXTS, MOST_TOUCHPOINTS, MOST_WINDOWS, OPPORTUNITIES_FILE
from mtorl.log.splits import SHARES, fractions_of, split_of
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE, LogError, fingerprint, schema
from mtorl.log.trainings import READ, days_of
from mtorl.runtime import progress

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
        judge(db, lake, spec, which)
        return learnable_of(db, spec)


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
    progress.report(0, 4, "judging decisions")
    with open_database(lake, engine) as db:
        judge(db, lake, spec, which)
        progress.report(1, 4, "opportunities")
        _write_opportunities(db, spec, data / OPPORTUNITIES_FILE)
        progress.report(2, 4, "touchpoints")
        part = _add_touchpoints(db, spec, first, data / LOG_FILE, which.most_touchpoints)
        progress.report(3, 4, "what can be learned")
        found = replace(learnable_of(db, spec), pruned=part.pruned)
        _note(db, data, part, {"collected": asdict(found)})
    progress.report(4, 4, "done")
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
        part = _Part(rows, _rows_of(log), days)
        _note(db, Path(folder), part, {})
    return f"{part.kept:,} of {rows:,} touchpoints, of users that a hash chooses: more than most_touchpoints"


def judge(db: Database, lake: Lake, spec: DatasetSpec, which: Decisions) -> None:
    """Make the tables collected_decision, collected_outcome and, by `rules.decisions_query`, judged."""
    if not lake:
        raise LogError(
            f"{lake.place}: no decisions here; a router uploads them each minute to the lake of its settings"
        )
    for kind, known in zip(LEARNT, ("event_time", "received_time", "event_time"), strict=True):
        records = lake.records(db, kind, until=which.until and which.until + HOUR)
        bound = f"WHERE {known} < {instant(which.until)}" if which.until else ""
        db.view(f"collected_{kind}", f"SELECT * FROM {records} AS record {bound}")
    db.keep("judged", decisions_query(spec, which.outcome_hours))


def _write_opportunities(db: Database, spec: DatasetSpec, path: Path) -> None:
    db.add("part_of", _users_of_opportunities(db))
    gained = "".join(f"if(exposed, {name_of(kind)}, 0) AS {name_of(kind)}, " for kind in spec.outcome_kinds)
    own = gained + "".join(f"{name_of(column.name)}, " for column in spec.context)
    # A window is larger than a decision: they are read for these users alone.
    db.keep(
        "shown_window",
        """SELECT w.decision_id, w."window" AS features
        FROM collected_window AS w JOIN collected_decision AS d ON d.decision_id = w.decision_id
        WHERE d.user_id IN (SELECT user_id FROM part_of WHERE split <> 'train') AND NOT d.withdrawn""",
    )
    db.write(
        f"""SELECT decision_id, user_id, timestamp, campaign_id, arm, generation, drawn_channel AS channel,
                   channel_probs, exposure_probs, exposed, {own} split, features
            FROM judged JOIN part_of USING (user_id) LEFT JOIN shown_window USING (decision_id)
            WHERE left_out IS NULL""",
        path,
    )


def _users_of_opportunities(db: Database) -> pa.Table:
    """Users and their parts of the split, chosen by hashes if they have too many opportunities.

    Of the validation and test parts only users whose windows were logged count.
    """
    most = {"train": MOST_CONTEXTS, "val": MOST_WINDOWS, "test": MOST_WINDOWS}
    ((rows,),) = db.execute("SELECT count(*) AS decisions FROM judged WHERE left_out IS NULL").fetchall()
    # The names of all users need not fit in memory: these are enough for each part.
    enough = 1.2 * max(most[part] / share for part, share in SHARES)
    some = of_some_users(enough / max(rows, 1), "concat('opportunities', user_id)")
    counted = db.execute(
        f"""SELECT user_id, count(*) AS decisions, count(w.decision_id) AS windows FROM judged LEFT JOIN (
            SELECT decision_id FROM collected_window) AS w ON w.decision_id = judged.decision_id
        WHERE left_out IS NULL AND {some} GROUP BY user_id"""
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


@dataclass(frozen=True)
class _Part:
    """The touchpoints that a training reads."""

    rows: int  # before the bound
    kept: int
    days: Mapping[str, int] | None  # of the log before the bound; None: all touchpoints were kept

    @property
    def pruned(self) -> int:
        return self.rows - self.kept if self.days is not None else 0


def _add_touchpoints(db: Database, spec: DatasetSpec, log_path: Path, out: Path, most_rows: int = 0) -> _Part:
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

    channels = len(spec.channels)
    known = squared_weight_of_log(channels) if "propensity" in there else "CAST(NULL AS DOUBLE)"
    pool = f"""(
        SELECT {typed(there, "false")}, {text(LOG)} AS arm, '' AS generation, {known} AS squared_weight
        FROM {table(log)} UNION ALL
        SELECT {typed(judged, "true")}, arm, generation, if(propensity IS NULL, NULL, {squared_weight(channels)})
        FROM judged WHERE touchpoint)"""
    generations = generations_of(db, pool) if most_rows else []
    rows = sum(one.rows for one in generations)
    days = days_of(log_path) if rows > most_rows else None
    stays = "true" if days is None else kept(kept_shares(generations, most_rows))
    columns = ", ".join(name_of(field.name) for field in types)
    db.write(f"SELECT {columns} FROM {pool} AS pool WHERE {stays}", out, order=("user_id", "timestamp"))
    return _Part(rows, _rows_of(out), days)


def _rows_of(log: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in parquet_files(log))


def _note(db: Database, data: Path, part: _Part, more: Mapping[str, Any]) -> None:
    path, log = data / INGEST_FILE, data / LOG_FILE
    ((users,),) = db.execute(f"SELECT count(DISTINCT user_id) FROM {table(parquet_files(log))}").fetchall()
    report: dict[str, Any] = json.loads(path.read_text())
    report |= {"rows": part.kept, "users": int(users), "fingerprint": fingerprint(batches(log)), **more}
    if part.days is not None:
        report[READ] = {"share": part.kept / part.rows, "days": part.days}
    path.write_text(json.dumps(report, indent=2))
