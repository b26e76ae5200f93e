"""What collecting decisions costs: `mtorl data collect` on ten million decisions, and on the hour after them.

    python benchmarks/collect.py --json benchmarks/results/collect.json    # half an hour, 12 GB in TMPDIR
    python benchmarks/collect.py --quick                                   # fewer decisions

The log is that of ten days, in the files that a router's export leaves, a fifth of a million bytes of JSON in a hundred
decisions. One decision in five has an outcome, some of them days later. Each run is a process of its own: CPU seconds
and peak memory are the operating system's.

    all        everything at once, into an empty folder
    hour       the next hour, with outcomes of the days before: what a run each hour costs
    nothing    once more, without anything new
    training   what the next training reads, of everything: touchpoints and opportunities
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from _environment import environment, finish

from benchmarks._process import measured
from benchmarks.collecting.table import collect_table

HOURS = 240
ROWS, QUICK_ROWS = 10_000_000, 240_000
SEGMENT = 50_000  # decisions in a file
START = 1_760_000_400_000_000  # microseconds since 1970, a full hour

TRAINING = """
import sys
from pathlib import Path
from features.collect.training_log import add_decisions
add_decisions(sys.argv[1], Path(sys.argv[2]))
"""


def write_log(folder: Path, rows: int, first: int, last: int) -> None:
    """Decisions of some hours, and the outcomes that came in these hours."""
    import duckdb

    from mtorl.log.records import sql_columns

    an_hour = rows // HOURS
    columns = ", ".join(sql_columns("decision"))
    nulls = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in sql_columns("decision").items())
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(folder)}) as db:
        db.execute("SET TimeZone = 'UTC'").fetchall()
        db.execute("SELECT setseed(0.5)").fetchall()
        for part in range(first * an_hour, last * an_hour, SEGMENT):
            until = min(part + SEGMENT, last * an_hour)
            target = folder / f"router/decision-{part:010d}/decisions.parquet"
            target.parent.mkdir(parents=True)
            window = ", ".join(
                f"'{name}', list_transform(range(20), lambda x: {value})"
                for name, value in (
                    ("prev_channel", "['search', 'social', 'display', 'video'][1 + (random() * 3.99)::INT % 4]"),
                    ("prev_timestamp", "1.7e15 + floor(random() * 1e13)"),
                    ("prev_click", "(random() < 0.1)::INT"),
                    ("prev_conversion", "0"),
                    ("prev_revenue", "0.0"),
                    ("prev_cost", "round(random(), 6)"),
                )
            )
            db.execute(
                f"""COPY (SELECT {columns} FROM (SELECT {nulls} WHERE false) UNION ALL BY NAME
                SELECT md5(i::VARCHAR) AS decision_id, 3 AS schema_version, 'u' || i % {rows // 10} AS user_id,
                    make_timestamptz({START} + i * {3_600_000_000 // an_hour}) AS event_time,
                    event_time AS request_time,
                    'spring' AS campaign_id, if(i % 2 = 0, 'incumbent', 'challenger') AS arm, 'x' AS experiment,
                    '0123456789abcdef' AS experiment_version, 's' AS salt, 'l' AS layer, '50%' AS stage,
                    'video' AS channel, 'video' AS drawn_channel, i % 5 = 0 AS expose, false AS withdrawn,
                    false AS budget_exhausted, true AS features_found, 0.4 AS propensity, 'd' AS model_digest,
                    '{{"search":0.1,"social":0.2,"display":0.3,"video":0.4}}' AS channel_probs,
                    '{{"search":1.0,"social":0.0,"display":1.0,"video":1.0}}' AS exposure_probs,
                    json_object('hour', floor(random() * 24), 'device', 'mobile', 'placement', 'feed')::VARCHAR
                        AS context,
                    json_object('timestamp', {START} + i, {window}, 'context', json_object('hour', [1.0]),
                        'static', json_object('age_group', '25-34', 'tenure_days', 3.0, 'region', 'north'))::VARCHAR
                        AS features
                FROM range({part}, {until}) AS r(i)) TO '{target}' (FORMAT parquet)"""
            ).fetchall()
        # Four in five outcomes come within minutes, the others up to three days later.
        outcomes = folder / f"router/outcome-{first:010d}/outcomes.parquet"
        outcomes.parent.mkdir(parents=True)
        db.execute(
            f"""COPY (SELECT * FROM (SELECT 2 AS schema_version, 'e' || i AS event_id, md5(i::VARCHAR) AS decision_id,
                    'cost' AS kind, 0.1 AS value,
                    make_timestamptz({START} + i * {3_600_000_000 // an_hour} +
                        CASE WHEN i % 25 = 0 THEN (hash(i) % 259200000000)::BIGINT ELSE 60000000 END) AS event_time,
                    event_time AS received_time
                FROM range(0, {last * an_hour}, 5) AS r(i))
            WHERE event_time >= make_timestamptz({START} + {first} * 3600000000)
              AND event_time < make_timestamptz({START} + {last} * 3600000000) ORDER BY event_time)
            TO '{outcomes}' (FORMAT parquet)"""
        ).fetchall()


def first_log(folder: Path) -> None:
    """The log of a training, to which decisions are added."""
    from features.ingest.log_folder import RawLog, ingest

    ingest(RawLog(users=200), folder, folder.with_name("quarantine.csv"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="fewer decisions")
    parser.add_argument("--rows", type=int, help="so many decisions")
    args = parser.parse_args()
    rows = args.rows or (QUICK_ROWS if args.quick else ROWS)
    with tempfile.TemporaryDirectory(prefix="collect-") as scratch:
        folder = Path(scratch)
        collecting = [sys.executable, "-m", "cli.main", "data", "collect", str(folder / "log"), "--dataset=simulator"]
        collecting.append(f"--out={folder / 'store'}")
        # In another process: a child's peak memory is never below that of the process that has started it.
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
            processes.submit(first_log, folder / "data").result()
            processes.submit(write_log, folder / "log", rows, 0, HOURS).result()
            runs = {"all": measured(collecting)}
            processes.submit(write_log, folder / "log", rows, HOURS, HOURS + 1).result()
            runs["hour"] = measured(collecting)
        runs["nothing"] = measured(collecting)
        runs["training"] = measured([sys.executable, "-c", TRAINING, str(folder / "store"), str(folder / "data")])
        stored = sum(file.stat().st_size for file in (folder / "store").rglob("*.parquet"))
        counted = json.loads((folder / "data" / "ingest.json").read_text())["collected"]
    figures = {
        "environment": environment("duckdb"),
        "rows": rows,
        "runs": runs,
        "bytes_a_decision": stored / rows,
        "opportunities": counted["opportunities"],
    }
    print(collect_table(figures))
    finish(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
