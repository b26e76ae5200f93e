"""Measures the online store: the memory that Redis needs for each user, and the cost of adding events (the feed).

The feed also stores digests of events and, for some hours, a separate record of each exposure, called a note.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._process import ROOT, redis_server
from benchmarks.feature_layer.online import configure

if TYPE_CHECKING:
    import pandas as pd

BASE_MS = 1_767_268_800_000  # time in decision ids, milliseconds since 1970


def redis_options() -> dict[str, str]:
    """Return the options in redis.conf that affect how a user's data are stored."""
    text = (ROOT / "manifests" / "base" / "redis" / "redis.conf").read_text()
    return {name.replace("-", "_"): value for name, value in re.findall(r"^(hash-\S+) (\S+)$", text, re.M)}


def log_of(users: int) -> pd.DataFrame:
    """Return a simulated log in which each user has as many touchpoints as a window."""
    import pandas as pd

    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    simulator = Simulator(SimulatorConfig(users=max(500, users // 4), seed=1))
    rows, window = simulator.log(), simulator.spec.window
    rows = pd.concat([rows] * (1 + users * window // len(rows)), ignore_index=True).head(users * window)
    number = rows.index // window
    rows["user_id"] = [f"u{user:06d}" for user in number]
    first = number * (28 * 86_400_000_000 // users)  # The users' first touchpoints are spread evenly over four weeks.
    step = pd.to_timedelta(first + (rows.index % window) * 7_200_000_417, unit="us")
    rows["timestamp"] = rows["timestamp"].min() + step
    for column in simulator.spec.static:
        rows[column.name] = rows.groupby("user_id")[column.name].transform("first")
    return rows


def events_of(number: int, row: dict[str, Any], spec: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return a router's events for one touchpoint: its decision, and its outcomes."""
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


def measure(folder: str, users: int) -> dict[str, Any]:
    """Measure the bytes of a user and of a note in Redis, and the feed's CPU time per event."""
    from redis import Redis

    from features.offline import store
    from features.online.feed import Feed
    from features.online.open_history import open_history
    from features.online.redis_store import NOTES
    from mtorl.log.dataset import DatasetSpec

    spec, rows = DatasetSpec.load("simulator"), log_of(users)
    place, repo = Path(folder), Path(folder) / "features"
    with redis_server(place, **redis_options()) as port, Redis(port=port) as client:
        online = {"type": "redis", "connection_string": f"127.0.0.1:{port}", "key_ttl_seconds": 7_776_000}
        configure(repo, online)
        rows.to_parquet(place / "log.parquet", index=False)
        store.define(repo, spec)
        before = client.info("memory")["used_memory"]

        def bytes_a_user() -> float:
            return float((client.info("memory")["used_memory"] - before) / users)

        store.materialize(repo, spec, place / "log.parquet")
        materialized = bytes_a_user()
        client.flushall()
        store.materialize(repo, spec, place / "log.parquet", views=["user_static", "user_channel"])
        records, seconds, events = list(enumerate(rows.sort_values("timestamp").to_dict("records"))), 0.0, 0
        with open_history(repo, spec) as history:
            feed = Feed(history, repo)
            for start in range(0, len(records), 256):
                some = records[start : start + 256]
                batch = [event for number, row in some for event in events_of(number, row, spec)]
                began = time.process_time()
                feed.take(batch)
                seconds, events = seconds + time.process_time() - began, events + len(batch)
        notes = list(client.scan_iter(f"{NOTES}*", count=1000))
        noted = sum(client.memory_usage(key, samples=0) for key in notes)
        client.delete(*notes)
        return {
            "touchpoints": spec.window,
            "materialized_bytes": materialized,
            "fed_bytes": bytes_a_user(),
            "note_bytes_an_exposure": noted / len(records),
            "feed_us_an_event": seconds / events * 1e6,
        }
