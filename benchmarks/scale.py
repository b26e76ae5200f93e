"""Measures how costs grow with the size of logs, the number of campaigns and the number of routers.

    export TMPDIR=/large/disk                                    # 10 GB for 100M decisions
    python benchmarks/scale.py --quick                           # small sizes, same code
    python benchmarks/scale.py --json benchmarks/results/scale.json
    python benchmarks/scale.py --decisions 1e6 1e7 1e8 --json FILE
    python benchmarks/scale.py --only lake traffic               # some parts; FILE keeps the others

Each figure is measured in a process of its own.

    lake        the last day of a lake of 28 days: compaction, decisions to learn from (judged rows), the monitor's
                measures, a look at one experiment
    hour        3.6M decisions in one hour, a thousand a second: compaction, judged rows, a look
    evaluation  memory of an evaluation by the rows of its log
    ledger      memory of a reservation, and Redis' work for an exposure and for pacing
    histories   Redis' memory for each user of the online store, and CPU for each event of the feed
    start       start of a router by the size of its spool, and with 5,000 campaigns; the kill switch
    traffic     two routers with a real Redis and an S3 server: no record lost or doubled, no budget overspent
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser

from benchmarks._process import redis_server, run
from benchmarks.scale_runs.table import scale_tables


@dataclass(frozen=True)
class Size:
    """The sizes for which costs are measured.

    Attributes:
        decisions: Numbers of decisions in a lake.
        hour: Number of decisions in a busy hour.
        paced_seconds: Simulated seconds of pacing.
        segments: Numbers of 64 MiB segments in a spool.
        traffic: Number of decisions of two routers together.
    """

    decisions: tuple[int, ...] = (1_000_000, 10_000_000)
    days: int = 28
    hour: int = 3_600_000
    rows: tuple[int, ...] = (1_000_000, 10_000_000, 100_000_000)
    shard_rows: int = 250_000
    campaigns: tuple[int, ...] = (1, 100, 5_000)
    exposures: int = 5_000
    paced_seconds: int = 600
    segments: tuple[int, ...] = (2, 16, 160)
    experiments: int = 10
    traffic: int = 3_600_000
    users: int = 5_000


QUICK = Size((20_000,), 8, 20_000, (50_000,), 5_000, (1, 100), 300, 60, (2,), 3, 6_000, 200)


def lake(size: Size) -> dict[str, Any]:
    from benchmarks.scale_runs import batch

    found = {}
    for decisions in size.decisions:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            lake = {"folder": folder, "decisions": decisions, "days": size.days}
            made = run(batch.make, **lake)
            first_look = run(batch.look_once, folder=folder)
            found[str(decisions)] = {
                "made": {**made, **run(batch.arrive, **lake)},
                "first_look": first_look,
                "first_judge": run(batch.judge_rows, folder=folder, days_before=1),
                "compact": run(batch.compact_day, folder=folder),
                "judge": run(batch.judge_rows, folder=folder),
                "measure": run(batch.measure_day, folder=folder),
                "sums": run(batch.look_once, folder=folder),
                "look": run(batch.look_once, folder=folder),
            }
    return found


def hour(size: Size) -> dict[str, Any]:
    """Measure the batch jobs for one busy hour."""
    from benchmarks.scale_runs import batch

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        return {
            "made": run(batch.make_hour, folder=folder, decisions=size.hour),
            "compact": run(batch.compact_hour, folder=folder),
            "first_judge": run(batch.judge_rows, folder=folder),
            "first_look": run(batch.look_once, folder=folder),
        }


def evaluation(size: Size) -> dict[str, Any]:
    from benchmarks.scale_runs import evaluation as tasks

    found = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        for rows in size.rows:
            windows = f"{folder}/{rows}"
            run(tasks.write_steps, folder=windows, rows=rows, shard_rows=size.shard_rows)
            if rows == size.rows[0]:
                run(tasks.fit, windows=windows, models=f"{folder}/models")
            found[str(rows)] = run(tasks.evaluate, windows=windows, models=f"{folder}/models")
    return found


def ledger(size: Size) -> dict[str, Any]:
    """Measure the memory of a reservation in Redis, and the load on Redis from exposures and from pacing."""
    from benchmarks.scale_runs.ledger import FLAGS, decision, memory
    from benchmarks.scale_runs.pacing import pace

    def on_redis(task: Callable[..., dict[str, float]], *arguments: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), **FLAGS) as port:
            return task(port, *arguments)

    found: dict[str, Any] = {"reservations": on_redis(memory, 10 * size.exposures), "exposures": {}, "pacing": {}}
    for campaigns, routers in product(size.campaigns, (2, 20)):
        name = f"{campaigns} campaigns, {routers} routers"
        found["exposures"][name] = on_redis(decision, campaigns, routers, size.exposures)
        found["pacing"][name] = run(pace, campaigns=campaigns, routers=routers, seconds=size.paced_seconds)
    return found


def histories(size: Size) -> dict[str, Any]:
    from benchmarks.scale_runs.histories import measure

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        return run(measure, folder=folder, users=size.users)


def start(size: Size) -> dict[str, Any]:
    """Measure how long a router takes to start if its spool has many records, and if there are many campaigns."""
    from benchmarks.scale_runs.start import kill_and_start, start_with_spool

    spools = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        for segments in size.segments:
            spools[str(segments)] = run(start_with_spool, folder=f"{folder}/{segments}", segments=segments)
        switch = run(
            kill_and_start, folder=f"{folder}/kill", campaigns=size.campaigns[-1], experiments=size.experiments
        )
    return {"spools": spools, "campaigns": size.campaigns[-1], "experiments": size.experiments, "switch": switch}


def traffic(size: Size) -> dict[str, Any]:
    """Send traffic to two routers, check that no record is lost, and measure the size of a record."""
    from benchmarks.scale_runs.records import record_bytes
    from benchmarks.scale_runs.traffic import play

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        played = run(play, folder=f"{folder}/played", decisions=size.traffic)
        return {**played, "records": run(record_bytes, folder=f"{folder}/records")}


PARTS = {part.__name__: part for part in (lake, hour, evaluation, ledger, histories, start, traffic)}


def main() -> None:
    made = parser(__doc__, "small sizes")
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    made.add_argument("--decisions", nargs="+", type=float, help="sizes of the lake, decisions")
    made.add_argument("--traffic", type=float, help="number of decisions in the traffic")
    options = made.parse_args()
    usual = QUICK if options.quick else Size()
    decisions = tuple(map(int, options.decisions or usual.decisions))
    size = replace(usual, decisions=decisions, traffic=int(options.traffic or usual.traffic))
    before = Path(options.json) if options.json else None
    figures: dict[str, Any] = json.loads(before.read_text()) if before and before.exists() else {}
    figures["environment"] = environment("duckdb", "pyarrow", "redis")
    for name in options.only:
        found = PARTS[name](size)
        figures[name] = {**figures.get(name, {}), **found} if name == "lake" else found
        if before:
            before.write_text(json.dumps(figures, indent=2) + "\n")
    print(scale_tables(figures))
    finish(figures, options.json)


if __name__ == "__main__":
    main()
