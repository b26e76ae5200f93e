"""Writes what a training reads of the lake's decisions: touchpoints, added to a log, and opportunities beside it.

    print(learnable("lake", spec))                       # how many decisions teach something, and how much
    add_decisions("lake", "data")                        # data: a folder of `features.ingest.log_folder.ingest`

    data/touchpoints.parquet       the log, and every exposure that took place
    data/opportunities.parquet     every decision that a policy's value can rest on (`rules.py`)

Learning from the newest exposures alone breaks the heads within a generation, because whether MTORL exposes depends on
what it expects. So a first log of wide choices stays in every training. Added exposures are marked as `collected`: the
heads of reward and cost learn from them; the action head, the prior of the decision rule, does not, for it would
confirm its own choices.

The window of an opportunity is the one that the policy saw. It is kept for users of the validation and test parts only,
and for no more than are needed: training reads the log.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.database import Database, open_database, table
from features.collect.pruning import LOG, generations_of, kept, kept_shares, squared_weight, squared_weight_of_log
from features.collect.report import Learnable, learnable_of
from features.collect.rules import decisions_query
from features.collect.snapshot import LEARNT, Snapshot
from features.engine import name_of, parquet_files, text
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import HOUR, Lake, instant
from mtorl.log.opportunities import MOST_WINDOWS, OPPORTUNITIES_FILE
from mtorl.log.splits import fractions_of, split_of
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE, LogError, fingerprint, schema
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
        most_touchpoints: About how many exposures a training should read, the log's included (`pruning.py`); 0: all.
    """

    outcome_hours: float = 0.0
    until: datetime | None = None
    most_touchpoints: int = 0

    @classmethod
    def mature(cls, folder: Path, snapshot: str, most_touchpoints: int = 0) -> Decisions:
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
    files = parquet_files(data / LOG_FILE if log is None else log)
    spec = DatasetSpec.load(data / DATASET_FILE)
    lake = Lake.open(place)
    progress.report(0, 4, "judging decisions")
    with open_database(lake, engine) as db:
        judge(db, lake, spec, which)
        progress.report(1, 4, "opportunities")
        _write_opportunities(db, spec, data / OPPORTUNITIES_FILE)
        progress.report(2, 4, "touchpoints")
        pruned = _add_touchpoints(db, spec, files, data / LOG_FILE, which.most_touchpoints)
        progress.report(3, 4, "what can be learned")
        found = replace(learnable_of(db, spec), pruned=pruned)
        ((users,),) = db.rows(f"SELECT count(DISTINCT user_id) FROM {table([data / LOG_FILE])}")
    _note(data, found, int(users))
    progress.report(4, 4, "done")
    return found


def add_touchpoints(place: str | Path, spec: DatasetSpec, log: Path, out: Path) -> None:
    """Write a log with the exposures among a lake's decisions: all that features need of them."""
    lake = Lake.open(place)
    with open_database(lake) as db:
        judge(db, lake, spec, Decisions())
        _add_touchpoints(db, spec, parquet_files(log), out)


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
    db.add("windows_of", _users_with_windows(db))
    gained = "".join(f"if(exposed, {name_of(kind)}, 0) AS {name_of(kind)}, " for kind in spec.outcome_kinds)
    own = gained + "".join(f"{name_of(column.name)}, " for column in spec.context)
    # A window is larger than a decision: they are read for these users alone.
    db.keep(
        "shown_window",
        """SELECT w.decision_id, w."window" AS features
        FROM collected_window AS w JOIN collected_decision AS d ON d.decision_id = w.decision_id
        WHERE d.user_id IN (SELECT user_id FROM windows_of) AND NOT d.withdrawn""",
    )
    db.write(
        f"""SELECT decision_id, user_id, timestamp, campaign_id, arm, generation, drawn_channel AS channel,
                   channel_probs, exposure_probs, exposed, {own} split, features
            FROM judged JOIN part_of USING (user_id) LEFT JOIN shown_window USING (decision_id)
            WHERE left_out IS NULL""",
        path,
    )


def _users_with_windows(db: Database) -> pa.Table:
    """Users of the validation and test parts, chosen by a hash if there are too many; makes `part_of`, too."""
    counted = db.rows(
        """SELECT user_id, count(w.decision_id) AS windows FROM judged LEFT JOIN (
            SELECT decision_id FROM collected_window) AS w ON w.decision_id = judged.decision_id
        WHERE left_out IS NULL GROUP BY user_id"""
    )
    users = pd.DataFrame(counted, columns=["user_id", "rows"])
    users["split"] = split_of(users["user_id"])
    parts = pa.schema([("user_id", pa.string()), ("split", pa.string())])
    db.add("part_of", pa.Table.from_pandas(users[["user_id", "split"]], parts, preserve_index=False))
    chosen = []
    for part in ("val", "test"):
        there = users[users["split"] == part]
        share = MOST_WINDOWS / max(there["rows"].sum(), 1)
        chosen.append(there["user_id"][fractions_of(there["user_id"], "opportunities") < share])
    return pa.table({"user_id": pa.array(pd.concat(chosen), pa.string())})


def _add_touchpoints(db: Database, spec: DatasetSpec, log: list[Path], out: Path, most_rows: int = 0) -> int:
    """Write a log's files and the exposures as one table; returns how many touchpoints were pruned.

    A column that no record has is null.
    """
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
    stays = kept(kept_shares(generations, most_rows)) if rows > most_rows else "true"
    columns = ", ".join(name_of(field.name) for field in types)
    db.write(f"SELECT {columns} FROM {pool} AS pool WHERE {stays}", out, order=("user_id", "timestamp"))
    return max(0, rows - pq.read_metadata(out).num_rows)


def _note(data: Path, found: Learnable, users: int) -> None:
    path = data / INGEST_FILE
    report: dict[str, Any] = json.loads(path.read_text())
    with pq.ParquetFile(data / LOG_FILE) as file:
        report |= {"rows": file.metadata.num_rows, "users": users, "fingerprint": fingerprint(file.iter_batches())}
    path.write_text(json.dumps({**report, "collected": asdict(found)}, indent=2))
