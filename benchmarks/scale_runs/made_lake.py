"""Generates a lake of four weeks: compacted days, and a last day with the files that routers have uploaded.

    made = MadeLake(folder, decisions=10_000_000)
    made.write_history()                 # 27 days of closed hours
    made.write_arrivals()                # the uploads of the last day, including outcomes of older decisions

JSON fields have few different texts, so the size on disk is not realistic.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from mtorl.log.dataset import Column, DatasetSpec, RewardSpec
from mtorl.log.lake import HOUR, PLACED, Lake, instant, name_of
from mtorl.log.records import Kind, sql_columns

EXPERIMENTS, ROUTERS = 10, 2
END = datetime(2026, 3, 29, tzinfo=UTC)
# Longest delay of an outcome.
LATEST = timedelta(days=7)
# Number of files that a router uploads per hour.
FILES_AN_HOUR = 60
CHANNELS = ("search", "social", "display", "video")
SPEC = DatasetSpec(
    name="scale",
    description="a made-up market",
    adapter="touchpoints",
    channels=CHANNELS,
    context=(Column(name="hour", kind="numeric"), Column(name="device", kind="categorical")),
    static=(Column(name="age_group", kind="categorical", missing="unknown"),),
    reward=RewardSpec(gain="click"),
    propensity="logged",
)

_EVEN = json.dumps(dict.fromkeys(CHANNELS, 0.25))
_ONES = json.dumps(dict.fromkeys(CHANNELS, 1.0))
_VALUES = {
    "layer": "'default'",
    "salt": "'s'",
    "experiment_version": f"'{'0' * 16}'",
    "shares": """'{"incumbent": 0.5, "challenger": 0.5}'""",
    "stage": "'50%'",
    "model_name": "arm",
    "model_version": "'1'",
    "model_digest": "rpad(arm, 64, '0')",
    "feature_hash": f"'{'0' * 16}'",
    "static": """'{"age_group": "30-39"}'""",
    "context": """if(user_number % 2 = 0, '{"hour": 9, "device": "phone"}', '{"hour": 20, "device": "tv"}')""",
    "candidates": f"'{json.dumps(CHANNELS)}'",
    "costs": "'{}'",
    **dict.fromkeys(("channel_probs", "expected_costs"), f"'{_EVEN}'"),
    **dict.fromkeys(("exposure_probs", "expected_rewards", "prices"), f"'{_ONES}'"),
    **{name: name for name in ("decision_id", "arm", "channel")},
    "drawn_channel": "channel",
    "expose": "exposed",
    "propensity": "0.25",
    "expected_reward": "0.1",
    "expected_cost": "0.03",
    **dict.fromkeys(("budget_exhausted", "override", "withdrawn"), "false"),
    "experiment": "'experiment-' || user_number % 10",
    "reservation_id": "if(exposed, decision_id, NULL)",
    "schema_version": "1",
    "unit_hash": "left(md5(user_number::VARCHAR), 16)",
    "user_id": "'u' || user_number",
    "assignment_probability": "0.5",
    "features_found": "true",
    "campaign_id": "'campaign-' || noise % 1000",
    **dict.fromkeys(("request_time", "event_time"), "moment"),
    "price": "1.0",
    "reserved": "if(exposed, 0.05, 0.0)",
    "latency_seconds": "0.01",
}


class MadeLake:
    """A generated lake of `decisions` decisions in `days` days."""

    def __init__(self, folder: Path, decisions: int, days: int = 28) -> None:
        self.folder = folder
        self.lake = Lake.open(folder)
        self.decisions = decisions
        self.users = decisions // 10
        self.begin = END - timedelta(days=days)
        self.today = END - timedelta(days=1)
        self._of_hour = decisions // (days * 24)

    @property
    def last_day(self) -> list[datetime]:
        """Start of each hour of the last day."""
        return list(self._hours(self.today, END))

    def write_history(self) -> None:
        """Write all days except the last one as compacted hours, with the outcomes that arrived by then."""
        with self._database() as db:
            for hour in self._hours(self.begin, self.today):
                self._decide(db, hour)
                self._write(db, "decision", hour, name_of("decision", hour, "made-0"), "decided")
                came = f"(FROM outcomes WHERE received_time < {instant(self.today)})"
                self._write(db, "outcome", hour, name_of("outcome", hour, "made-0"), came)

    def write_arrivals(self) -> int:
        """Write the files that routers upload on the last day, and return the number of decisions in them.

        The files also contain outcomes of earlier decisions.
        """
        decisions = 0
        with self._database() as db:
            for hour in self._hours(self.today - LATEST, END):
                self._decide(db, hour)
                db.execute("CREATE TABLE IF NOT EXISTS late AS FROM outcomes WHERE false")
                today = f"received_time >= {instant(self.today)} AND received_time < {instant(END)}"
                db.execute(f"INSERT INTO late FROM outcomes WHERE {today}")
                if hour < self.today:
                    continue
                present = f"FROM late WHERE received_time < {instant(hour + HOUR)}"
                db.execute(f"CREATE OR REPLACE TABLE present AS {present}; DELETE {present}")
                decisions += self._upload(db, hour, "present")
        return decisions

    def write_last_hour(self) -> int:
        """Write the files that routers upload in the last hour, and return the number of decisions in them."""
        with self._database() as db:
            self._decide(db, END - HOUR)
            return self._upload(db, END - HOUR, "outcomes")

    def _upload(self, db: duckdb.DuckDBPyConnection, hour: datetime, outcomes: str) -> int:
        """Write the decisions of an hour, and the outcomes in a table, as one file per minute and router."""
        files = ROUTERS * FILES_AN_HOUR
        parts: tuple[tuple[Kind, str], ...] = (("decision", "decided"), ("outcome", outcomes))
        for kind, records in parts:
            split = f"SELECT *, hash(decision_id) % {files} AS file FROM {records} ORDER BY file"
            db.execute(f"CREATE OR REPLACE TABLE split AS {split}")
            for (file,) in db.execute("SELECT DISTINCT file FROM split").fetchall():
                name = name_of(kind, hour, f"{hour:%H}-{file:08d}", arrived=True)
                self._write(db, kind, hour, name, f"(FROM split WHERE file = {file})")
        return int(db.execute("SELECT count(*) FROM decided").fetchall()[0][0])

    def _hours(self, since: datetime, until: datetime) -> Iterator[datetime]:
        while since < until:
            yield since
            since += HOUR

    def _database(self) -> duckdb.DuckDBPyConnection:
        db = duckdb.connect(config={"threads": 2, "memory_limit": "2GB"})
        db.execute("SET TimeZone = 'UTC'")
        return db

    def _decide(self, db: duckdb.DuckDBPyConnection, hour: datetime) -> None:
        """Create the tables `decided` and `outcomes` of an hour, always with the same content."""
        start = round(hour.timestamp())
        columns = ", ".join(
            f"CAST({_VALUES.get(name, 'NULL')} AS {type_}) AS {name}" for name, type_ in sql_columns("decision").items()
        )
        db.execute(
            f"""CREATE OR REPLACE TABLE decided AS
            WITH drawn AS (
                SELECT i, hash(i, {start}) AS noise, (hash(i, {start}, 1) % {self.users})::BIGINT AS user_number,
                       to_timestamp({start} + i * 3600.0 / {self._of_hour}) AS moment
                FROM range({self._of_hour}) AS made(i)),
            said AS (
                SELECT *, ('0x' || left(md5(user_number::VARCHAR), 2))::UTINYINT % 64 AS bucket,
                       format('{{:012x}}', epoch_ms(moment)) AS ms, format('{{:016x}}', noise) AS hex
                FROM drawn),
            named AS (
                SELECT *, left(ms, 8) || '-' || substr(ms, 9) || '-7' || format('{{:02x}}', bucket) || left(hex, 1)
                       || '-8' || substr(hex, 2, 3) || '-' || substr(hex, 5, 4)
                       || if(noise % {ROUTERS} = 0, 'aaaaaaaa', 'bbbbbbbb') AS decision_id,
                       if(hash(user_number) % 2 = 0, 'incumbent', 'challenger') AS arm,
                       noise % 10 < 6 AS exposed, {list(CHANNELS)}[(noise // 16 % 4 + 1)::INT] AS channel
                FROM said)
            SELECT {columns}, date_trunc('hour', moment) AS hour, bucket::UTINYINT AS bucket FROM named"""
        )
        kinds = (("cost", 10, 300, 0.03), ("click", 1, 6 * 3600, 1.0), ("conversion", 0.2, 7 * 86_400, 1.0))
        parts = " UNION ALL ".join(
            f"""SELECT '{kind}' AS kind, {value} AS value, {seconds} AS longest, decision_id, event_time, hour, bucket
            FROM decided WHERE expose AND hash(decision_id, '{kind}') % 1000 < {share * 100}"""
            for kind, share, seconds, value in kinds
        )
        made = {"schema_version": "1", "event_id": "left(kind, 2) || decision_id"}
        made |= dict.fromkeys(("event_time", "received_time"), "happened")
        columns = sql_columns("outcome").items()
        typed = ", ".join(f"CAST({made.get(name, name)} AS {type_}) AS {name}" for name, type_ in columns)
        db.execute(
            f"""CREATE OR REPLACE TABLE outcomes AS SELECT {typed}, hour, bucket FROM (
                SELECT * EXCLUDE (event_time), event_time
                       + to_seconds(power(hash(decision_id) % 1000 / 1000.0, 2) * longest) AS happened
                FROM ({parts}))"""
        )

    def _write(self, db: duckdb.DuckDBPyConnection, kind: Kind, hour: datetime, name: str, table: str) -> None:
        columns = ", ".join([*sql_columns(kind), *PLACED])
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        db.execute(
            f"""COPY (SELECT {columns} FROM {table} ORDER BY bucket, decision_id) TO '{self.folder / name}'
            (FORMAT parquet, COMPRESSION zstd)"""
        )
