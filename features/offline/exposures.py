"""Writes exposures of a lake to Parquet files, from which `materialize` updates the online features.

Most runs write only the exposures of users whose features have changed. Once an hour, a run also writes the recent
exposures of all other users, because the statistics of campaigns count them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from features.collect.database import DuckDB, open_duckdb
from features.collect.rules import decided_query, observed_query, refused_query
from features.feature_repo.sources import CAMPAIGN_DAYS, USER_DAYS
from mtorl.log.dataset import EVENTS, DatasetSpec
from mtorl.log.lake import HOUR, Lake, instant, sql_of
from mtorl.log.records import Kind
from mtorl.runtime.sql import sql_name, sql_text

_KINDS: tuple[Kind, ...] = ("decision", "outcome")
_DELAY = timedelta(minutes=10)
# Exposures this long before the previous run are counted again, because their hour had not ended then.
_COUNTED_AGAIN = HOUR + _DELAY


@dataclass(frozen=True)
class Exposures:
    """The Parquet files that `write_exposures` has written.

    Attributes:
        users: The ids of users whose features have changed (column user_id).
        campaigns: True if `touchpoints` contains all exposures that the view `campaign_stats` counts.
    """

    touchpoints: Path
    users: Path
    campaigns: bool


def write_exposures(
    lake: Lake, spec: DatasetSpec, folder: Path, until: datetime, since: datetime | None = None
) -> Exposures:
    """Write the exposures of users whose features have changed since the previous run to Parquet files.

    Args:
        until: Time of the newest upload to the lake.
        since: `until` of the previous run. If it is None, all exposures of the lake are written.
    """
    campaigns = since is None or _hour(since - _DELAY) < _hour(until - _DELAY)
    made, lake = Exposures(folder / "exposures.parquet", folder / "users.parquet", campaigns), lake.fixed()
    with open_duckdb(lake) as db:
        first, chosen, users = None, "true", f"read_parquet({sql_text(made.touchpoints)})"
        if since is not None:
            first = _hour(since - timedelta(days=USER_DAYS, hours=spec.outcome_hours) - HOUR)
            chosen, users = _choose(db, lake, spec, (first, since, until), campaigns), "changed"
        for kind in _KINDS:
            db.view(f"collected_{kind}", f"SELECT * FROM {lake.records(db, kind, first, where=chosen)} AS record")
        columns = ", ".join(map(sql_name, (*spec.log_columns, *spec.outcome_times.values())))
        db.view("decided", decided_query(spec))
        db.view("every_decided", "SELECT * FROM decided WHERE false")  # a refusal does not change a touchpoint
        db.keep("refused_on", refused_query())
        observed = observed_query(spec, until, "true")
        db.write(f"SELECT {columns} FROM ({observed}) AS observed WHERE touchpoint", made.touchpoints)
        db.write(f"SELECT DISTINCT user_id FROM {users}", made.users)
    return made


def _choose(
    db: DuckDB, lake: Lake, spec: DatasetSpec, times: tuple[datetime, datetime, datetime], campaigns: bool
) -> str:
    """Fill the table `changed` with the users whose features have changed. Returns SQL for the decisions to read."""
    first, since, until = times
    decisions = f"(SELECT * FROM {lake.records(db, 'decision', first)} AS record WHERE expose)"
    timed = [sql_text(kind) for kind in spec.timed if kind in EVENTS]
    outcomes = lake.records(db, "outcome", first, where=f"kind IN ({', '.join(timed)})") if timed else ""

    def counted(begin: datetime, end: datetime) -> str:
        period = f"BETWEEN {instant(begin)} AND {instant(end)}"
        received = f"SELECT decision_id FROM {outcomes} AS record WHERE received_time {period}"
        return f"(hour {period}" + (f" OR decision_id IN ({received})" if outcomes else "") + ")"

    week = timedelta(days=USER_DAYS)
    news = counted(_hour(since - week - _COUNTED_AGAIN), until - week)
    for kind in _KINDS:
        files = (*lake.arrived(kind), *lake.closed(kind))
        if new := [file for file in files if not file.written or file.written >= since - _COUNTED_AGAIN]:
            news += f" OR decision_id IN (SELECT decision_id FROM {sql_of(new)})"
    db.keep("changed", f"SELECT DISTINCT user_id FROM {decisions} AS exposure WHERE {news}")
    chosen = "user_id IN (SELECT user_id FROM changed)"
    if campaigns:
        chosen += f" OR {counted(_hour(since - timedelta(days=CAMPAIGN_DAYS) - _COUNTED_AGAIN), until)}"
    db.keep("chosen", f"SELECT decision_id FROM {decisions} AS exposure WHERE {chosen}")
    return "decision_id IN (SELECT decision_id FROM chosen)"


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)
