"""The online store in figures: bytes of Redis a user, and what a write costs.

    python benchmarks/histories.py                   # 20,000 users with full windows
    python benchmarks/histories.py --quick           # 2,000
    python benchmarks/histories.py --json FILE

A real redis-server with the settings of manifests/base/redis/redis.conf (`ours`) and with Redis' own (`default`). Users
have `window` touchpoints of the simulator's data set each. `materialized`: from a log, so decisions and outcomes have
no digests yet. `fed`: all from the feed, with both. The feed keeps a note of an exposure for some hours.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import TYPE_CHECKING, Any

from _environment import environment, finish, parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

USERS, QUICK_USERS = 20_000, 2_000
NEW = 0.01  # share of the users that have one more touchpoint in the second run
BASE_MS = 1_767_268_800_000  # of the decisions' ids


@contextmanager
def redis_server(folder: Path, ours: bool) -> Iterator[Any]:
    import redis

    from serving.local.ports import free_ports

    text = (Path(__file__).parents[1] / "manifests" / "base" / "redis" / "redis.conf").read_text()
    settings = re.findall(r"^(hash-\S+) (\S+)$", text, re.M) if ours else []
    options = [word for name, value in settings for word in (f"--{name}", value)]
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = Popen([*command, *options], stdout=DEVNULL)
    client = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200))
    try:
        client.ping()
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait()


def log_of(users: int) -> pd.DataFrame:
    """Journeys of the simulator, cut so that each user has a full window."""
    import pandas as pd

    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    simulator = Simulator(SimulatorConfig(users=max(500, users // 4), seed=1))
    rows, window = simulator.log(), simulator.spec.window
    rows = pd.concat([rows] * (1 + users * window // len(rows)), ignore_index=True).head(users * window)
    number = rows.index // window
    rows["user_id"] = [f"u{user:06d}" for user in number]
    first = number * (28 * 86_400_000_000 // users)  # each of four weeks has its users
    step = pd.to_timedelta(first + (rows.index % window) * 7_200_000_417, unit="us")
    rows["timestamp"] = rows["timestamp"].min() + step
    for column in simulator.spec.static:
        rows[column.name] = rows.groupby("user_id")[column.name].transform("first")
    return rows


def bytes_of(client: Any, users: int, before: int) -> dict[str, float]:
    keys = [key for key in client.scan_iter(count=1000) if key.startswith(b"\x02") or b"user_id" in key]
    assert len(keys) == users, len(keys)
    one = sum(client.memory_usage(key, samples=0) for key in keys[:2000]) / min(users, 2000)
    return {"memory_usage": one, "used_memory": (client.info("memory")["used_memory"] - before) / users}


def measure(users: int, ours: bool) -> dict[str, Any]:
    import pandas as pd
    import yaml

    from features.offline import store
    from features.online.feed import Feed
    from features.online.open_history import open_history
    from features.online.redis_store import NOTES
    from mtorl.log.dataset import DatasetSpec

    spec, rows = DatasetSpec.load("simulator"), log_of(users)
    figures: dict[str, Any] = {"users": users, "touchpoints": spec.window}
    with tempfile.TemporaryDirectory(prefix="mtorl-bench-") as name, redis_server(Path(name), ours) as client:
        folder, repo = Path(name), Path(name) / "features"
        settings = yaml.safe_load(store.CONFIG.read_text())
        address = f"127.0.0.1:{client.connection_pool.connection_kwargs['port']}"
        settings["online_store"] = {"type": "redis", "connection_string": address, "key_ttl_seconds": 7_776_000}
        repo.mkdir()
        (repo / store.CONFIG.name).write_text(yaml.safe_dump(settings))
        rows.to_parquet(folder / "log.parquet", index=False)
        store.define(repo, spec)
        before = client.info("memory")["used_memory"]

        def run(log: Path, since: store.Materialized | None = None) -> store.Materialized:
            began = time.perf_counter()
            done = store.materialize(repo, spec, log, since=since)
            figures.setdefault("runs", []).append(
                {"users": done.users, "written": done.written, "seconds": time.perf_counter() - began}
            )
            return done

        first = run(folder / "log.parquet")
        figures["materialized"] = bytes_of(client, users, before)
        newest = rows.drop_duplicates("user_id").head(int(users * NEW))
        more = pd.concat([rows, newest.assign(timestamp=rows["timestamp"].max() + pd.Timedelta("1h"))])
        more.to_parquet(folder / "more.parquet", index=False)
        second = run(folder / "more.parquet", first)
        run(folder / "more.parquet", second)

        client.flushall()
        store.materialize(repo, spec, folder / "log.parquet", views=["user_static", "user_channel"])
        with open_history(repo, spec) as history:
            feed, began, events = Feed(history, repo), time.process_time(), 0
            records = rows.sort_values("timestamp").to_dict("records")
            for start in range(0, len(records), 256):
                batch = []
                for number, row in enumerate(records[start : start + 256], start):
                    at = BASE_MS + number * 10
                    hexes = f"{at:012x}"
                    decision = f"{hexes[:8]}-{hexes[8:]}-7{number % 64:02x}0-8000-{number:012x}"
                    when = row["timestamp"].isoformat()
                    context = {column.name: row[column.name] for column in spec.context}
                    shown = {"user_id": row["user_id"], "channel": row["channel"], "context": context, "expose": True}
                    shown |= {"decision_id": decision, "event_time": when, "request_time": when, "withdrawn": False}
                    batch.append(("mtorl.decision.v1", shown))
                    for kind in ("cost", "click") if row["click"] else ("cost",):
                        cost = {"event_id": f"{decision}-{kind}", "decision_id": decision, "kind": kind}
                        cost |= {"value": float(row[kind]), "event_time": when, "received_time": when}
                        batch.append(("mtorl.outcome.v1", cost))
                feed.take(batch)
                events += len(batch)
            figures["feed_us_an_event"] = (time.process_time() - began) / events * 1e6
        notes = [key for key in client.scan_iter(f"{NOTES}*", count=1000)]
        noted = sum(client.memory_usage(key, samples=0) for key in notes)
        figures["note_bytes_an_exposure"] = noted / len(records)
        client.delete(*notes)
        figures["fed"] = bytes_of(client, users, before)
    return figures


def main() -> None:
    options = parser(__doc__, "fewer users, same code")
    arguments = options.parse_args()
    users = QUICK_USERS if arguments.quick else USERS
    figures: dict[str, Any] = {"quick": arguments.quick, "environment": environment("redis", "feast", "duckdb")}
    for name, ours in (("ours", True), ("default", False)):
        figures[name] = measure(users, ours)
        print(f"\nsettings: {name}\n" + json.dumps(figures[name], indent=2))
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
