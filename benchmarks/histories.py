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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _environment import ROOT, environment, finish, parser

from benchmarks._process import redis_server

if TYPE_CHECKING:
    import pandas as pd

USERS, QUICK_USERS = 20_000, 2_000
NEW = 0.01  # share of the users that have one more touchpoint in the second run
BASE_MS = 1_767_268_800_000  # of the decisions' ids


def redis_options() -> dict[str, str]:
    """Of the shipped redis.conf, those that decide how a user is stored."""
    text = (ROOT / "manifests" / "base" / "redis" / "redis.conf").read_text()
    return {name.replace("-", "_"): value for name, value in re.findall(r"^(hash-\S+) (\S+)$", text, re.M)}


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


def events_of(number: int, row: dict[str, Any], spec: Any) -> list[tuple[str, dict[str, Any]]]:
    """A touchpoint's decision and outcomes, as a router ships them."""
    hexes, when = f"{BASE_MS + number * 10:012x}", row["timestamp"].isoformat()
    decision = f"{hexes[:8]}-{hexes[8:]}-7{number % 64:02x}0-8000-{number:012x}"
    shown = {"user_id": row["user_id"], "channel": row["channel"], "expose": True, "withdrawn": False}
    shown |= {"context": {column.name: row[column.name] for column in spec.context}}
    shown |= {"decision_id": decision, "event_time": when, "request_time": when}
    events = [("mtorl.decision.v1", shown)]
    for kind in ("cost", "click") if row["click"] else ("cost",):
        event = {"event_id": f"{decision}-{kind}", "decision_id": decision, "kind": kind, "value": float(row[kind])}
        events.append(("mtorl.outcome.v1", {**event, "event_time": when, "received_time": when}))
    return events


def measure(users: int, ours: bool) -> dict[str, Any]:
    """All figures, with the settings of the manifests (`ours`) or with Redis' own."""
    import pandas as pd
    import yaml
    from redis import Redis

    from features.offline import store
    from features.online.feed import Feed
    from features.online.open_history import open_history
    from features.online.redis_store import NOTES
    from mtorl.log.dataset import DatasetSpec

    spec, rows = DatasetSpec.load("simulator"), log_of(users)
    figures: dict[str, Any] = {"users": users, "touchpoints": spec.window, "runs": []}
    options = redis_options() if ours else {}
    with tempfile.TemporaryDirectory(prefix="mtorl-bench-") as name, redis_server(Path(name), **options) as port:
        folder, repo, client = Path(name), Path(name) / "features", Redis(port=port)
        settings = yaml.safe_load(store.CONFIG.read_text())
        settings["online_store"] = {
            "type": "redis",
            "connection_string": f"127.0.0.1:{port}",
            "key_ttl_seconds": 7_776_000,
        }
        repo.mkdir()
        (repo / store.CONFIG.name).write_text(yaml.safe_dump(settings))
        rows.to_parquet(folder / "log.parquet", index=False)
        store.define(repo, spec)
        before = client.info("memory")["used_memory"]

        def run(log: str, since: store.Materialized | None = None) -> store.Materialized:
            began = time.perf_counter()
            done = store.materialize(repo, spec, folder / log, since=since)
            seconds = time.perf_counter() - began
            figures["runs"].append({"users": done.users, "written": done.written, "seconds": seconds})
            return done

        first = run("log.parquet")
        figures["materialized"] = bytes_of(client, users, before)
        newest = rows.drop_duplicates("user_id").head(int(users * NEW))
        more = pd.concat([rows, newest.assign(timestamp=rows["timestamp"].max() + pd.Timedelta("1h"))])
        more.to_parquet(folder / "more.parquet", index=False)
        run("more.parquet", run("more.parquet", first))

        client.flushall()
        store.materialize(repo, spec, folder / "log.parquet", views=["user_static", "user_channel"])
        records, seconds, events = list(enumerate(rows.sort_values("timestamp").to_dict("records"))), 0.0, 0
        with open_history(repo, spec) as history:
            feed = Feed(history, repo)
            for start in range(0, len(records), 256):
                some = records[start : start + 256]
                batch = [event for number, row in some for event in events_of(number, row, spec)]
                began = time.process_time()
                feed.take(batch)
                seconds, events = seconds + time.process_time() - began, events + len(batch)
        figures["feed_us_an_event"] = seconds / events * 1e6
        notes = list(client.scan_iter(f"{NOTES}*", count=1000))
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
