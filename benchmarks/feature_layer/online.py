"""Measures the online feature store: the latency of reads and writes, and the time until a read returns new data."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._process import clock, redis_server, run

from .log import DATASET, DAYS, MEAN, Plan, generate

# Number of users in a large read.
MANY = 64


def serve(store: str, port: int, root: str, log: str, reads: int, appends: int) -> dict[str, Any]:
    """Fill an online store from a log and measure its latencies, in milliseconds.

    Args:
        store: The online store, "redis" or "sqlite".
        root: New folder for the feature repository.
        reads: Number of reads to measure.
        appends: Number of touchpoints to append.
    """
    import random

    import duckdb
    from redis import Redis

    from features.offline.store import create, materialize
    from features.online.open_history import open_history
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.times import microseconds
    from mtorl.window.window import AD_DECISION
    from serving.router.flow.features import FeastSource
    from serving.router.flow.requests import DecisionRequest

    spec, repo, chance = DatasetSpec.load(DATASET), Path(root), random.Random(1)
    redis = {"type": "redis", "connection_string": f"127.0.0.1:{port}"}
    configure(repo, redis if store == "redis" else None)
    create(repo, spec, log)
    with clock() as figures:
        materialize(repo, spec, log)
    with duckdb.connect() as connection:
        users = [user for (user,) in connection.sql(f"SELECT DISTINCT user_id FROM '{log}' ORDER BY ALL").fetchall()]
    end = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=DAYS)  # last time in the log
    context = {"hour": 9.0, "device": "phone", "placement": "feed"}

    def request(user: str, at: datetime) -> DecisionRequest:
        return DecisionRequest(user, f"c{chance.randint(1, 20)}", context, microseconds(at))

    source = FeastSource(repo, AD_DECISION)
    ping = Redis(port=port).ping if store == "redis" else None
    # The first read opens a connection, so do not measure it.
    source.read([request(chance.choice(users), end) for _ in range(MANY)])
    readings: dict[str, list[int]] = {"read": [], "read_many": []}
    for turn in range(reads):
        readings["read"].append(_spent(source.read, [request(chance.choice(users), end)]))
        if turn % 5 == 0:
            many = [request(chance.choice(users), end) for _ in range(MANY)]
            readings["read_many"].append(_spent(source.read, many))

    readings |= {"append": [], "visible": [], "ping": []}
    with open_history(repo, spec) as history:
        for turn in range(appends):
            user, at = chance.choice(users), end + timedelta(seconds=turn + 1)
            shown = {"decision_id": str(turn), "request_time": at.isoformat(), "context": context}
            cost = {"decision_id": str(turn), "event_id": f"{turn}-cost", "kind": "cost", "value": 0.1}
            later = request(user, at + timedelta(seconds=1))
            began = time.perf_counter_ns()
            exposure = history.exposure({**shown, "channel": spec.channels[turn % len(spec.channels)]})
            history.change({user: [exposure, history.outcome({**cost, "received_time": at.isoformat()})]})
            readings["append"].append(time.perf_counter_ns() - began)
            while source.read([later])[0].history["hist_timestamp"][-1:] != [microseconds(at)]:
                if time.perf_counter_ns() - began > 5e9:
                    raise TimeoutError("an append was not visible after 5 s")
            readings["visible"].append(time.perf_counter_ns() - began)
            if ping:
                readings["ping"].append(_spent(ping))
    return {**figures, "users": len(users), **{name: _percentiles(times) for name, times in readings.items() if times}}


def configure(repo: Path, online_store: dict[str, Any] | None) -> None:
    """Write the project's feature_store.yaml into a new folder, with another online store if given."""
    import yaml

    from features.offline.store import CONFIG

    settings = yaml.safe_load(CONFIG.read_text()) | ({"online_store": online_store} if online_store else {})
    repo.mkdir(parents=True)
    (repo / CONFIG.name).write_text(yaml.safe_dump(settings))


def _spent(work: Callable[..., Any], *arguments: Any) -> int:
    began = time.perf_counter_ns()
    work(*arguments)
    return time.perf_counter_ns() - began


def _percentiles(times: Sequence[int]) -> dict[str, float]:
    ordered = sorted(times)
    return {f"p{q}": ordered[min(len(ordered) * q // 100, len(ordered) - 1)] / 1e6 for q in (50, 99)}


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    log, times = folder / "log.parquet", {"reads": plan.reads, "appends": plan.appends}
    figures: dict[str, Any] = {"log": run(generate, rows=plan.online_users * MEAN, path=log)}
    with redis_server(folder) as port:
        for store in ("sqlite", "redis"):
            figures[store] = run(serve, store=store, port=port, root=folder / store, log=log, **times)
    return figures
