"""The online path in one process: the router's read, appends, and how soon a read shows an append.

Beside the router's read stands a bare HMGET of the same Feast hashes (the user's and the campaign's, in one round trip)
with its values decoded, beside an append a PING, the shortest round trip there is; what is compared takes turns.
Redis runs for this measure alone, in memory, on a port of its own.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .child import brief, clock, run
from .log import DATASET, DAYS, MEAN, generate
from .plan import Plan

MANY = 64  # requests of a batch read


def serve(store: str, address: str, root: str, log: str, reads: int, appends: int) -> dict[str, Any]:
    """Fill an online store from a log and measure it; times in milliseconds."""
    import random

    import duckdb

    from features.feature_repo.names import AD_DECISION
    from features.offline.store import create, materialize
    from features.online.history import Touchpoint
    from features.online.open_history import open_history
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.times import microseconds
    from serving.router.flow.features import FeastSource
    from serving.router.flow.requests import DecisionRequest

    spec, repo, chance = DatasetSpec.load(DATASET), Path(root), random.Random(1)
    _configure(repo, store, address)
    create(repo, spec, log)
    with clock() as figures:
        materialize(repo, spec)
    with duckdb.connect() as connection:
        users = [user for (user,) in connection.sql(f"SELECT DISTINCT user_id FROM '{log}' ORDER BY ALL").fetchall()]
    end = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=DAYS)  # the log's
    context = {"hour": 9.0, "device": "phone", "placement": "feed"}

    def request(user: str, at: datetime) -> DecisionRequest:
        return DecisionRequest(user, f"c{chance.randint(1, 20)}", context, microseconds(at))

    source = FeastSource(repo, AD_DECISION)
    direct, ping = (_hmget(repo, address), _client(address).ping) if store == "redis" else (None, None)
    source.read([request(chance.choice(users), end) for _ in range(MANY)])  # the first read opens a connection
    readings: dict[str, list[int]] = {"read": [], "direct": [], "read_many": []}
    for turn in range(reads):
        one = request(chance.choice(users), end)
        readings["read"].append(_spent(source.read, [one]))
        if direct:
            readings["direct"].append(_spent(direct, one.user_id, one.campaign_id))
        if turn % 5 == 0:
            many = [request(chance.choice(users), end) for _ in range(MANY)]
            readings["read_many"].append(_spent(source.read, many))

    readings |= {"append": [], "visible": [], "ping": []}
    at_once = 0
    with open_history(repo, spec) as history:
        for turn in range(appends):
            user, at = chance.choice(users), end + timedelta(seconds=turn + 1)
            touch = Touchpoint(at, spec.channels[turn % len(spec.channels)], context, {"cost": 0.1})
            later = request(user, at + timedelta(seconds=1))
            began = time.perf_counter_ns()
            history.append(user, touch)
            readings["append"].append(time.perf_counter_ns() - began)
            tries = 1
            while source.read([later])[0].history["hist_timestamp"][-1:] != [microseconds(at)]:
                tries += 1
                if time.perf_counter_ns() - began > 5e9:
                    raise TimeoutError("an append was not visible after 5 s")
            readings["visible"].append(time.perf_counter_ns() - began)
            at_once += tries == 1
            if ping:
                readings["ping"].append(_spent(ping))
    return {
        **figures,
        "users": len(users),
        **{name: _percentiles(times) for name, times in readings.items() if times},
        "visible_at_first_read": at_once / appends,
    }


def _configure(repo: Path, store: str, address: str) -> None:
    """The project's feature_store.yaml, with the online store of this measure."""
    import yaml

    import features.feature_repo as definitions

    settings = yaml.safe_load((Path(definitions.__file__).parent / "feature_store.yaml").read_text())
    if store == "redis":
        settings["online_store"] = {"type": "redis", "connection_string": address}
    repo.mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(settings))


def _hmget(repo: Path, address: str) -> Callable[[str, str], dict[str, Any]]:
    """A read of the service's stored features without Feast: both hashes in one round trip."""
    from feast import FeatureStore
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from features.feature_repo.names import AD_DECISION

    store = FeatureStore(repo_path=str(repo))
    version = store.config.entity_key_serialization_version
    names: dict[str, list[str]] = {"user_id": [], "campaign_id": []}
    fields: dict[str, list[Any]] = {"user_id": [], "campaign_id": []}
    stored = {view.name: view for view in store.list_feature_views()}
    for projection in store.get_feature_service(AD_DECISION).feature_view_projections:
        if view := stored.get(projection.name):
            (key,) = view.join_keys
            names[key] += [feature.name for feature in projection.features]
            fields[key] += [_mmh3(f"{view.name}:{feature.name}") for feature in projection.features]
    client = _client(address)

    def read(user: str, campaign: str) -> dict[str, Any]:
        pipe = client.pipeline(transaction=False)
        for key, value in (("user_id", user), ("campaign_id", campaign)):
            if fields[key]:
                entity = EntityKey(join_keys=[key], entity_values=[Value(string_val=value)])
                pipe.hmget(_redis_key(store.project, entity, version), fields[key])
        raw = [value for answer in pipe.execute() for value in answer]
        values = {}
        for name, serialised in zip([*names["user_id"], *names["campaign_id"]], raw, strict=True):
            value = Value.FromString(serialised or b"")
            kind = value.WhichOneof("val")
            held: Any = getattr(value, kind) if kind else None
            values[name] = list(held.val) if kind and kind.endswith("_list_val") else held
        return values

    return read


def _client(address: str) -> Any:
    from redis import Redis

    host, port = address.split(":")
    return Redis(host, int(port))


def _spent(work: Callable[..., Any], *arguments: Any) -> int:
    began = time.perf_counter_ns()
    work(*arguments)
    return time.perf_counter_ns() - began


def _percentiles(times: Sequence[int]) -> dict[str, float]:
    ordered = sorted(times)
    return {f"p{q}": ordered[min(len(ordered) * q // 100, len(ordered) - 1)] / 1e6 for q in (50, 99)}


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of our own, in memory only; gives its host:port."""
    program = shutil.which("redis-server")
    if not program:
        raise FileNotFoundError("redis-server is not on the PATH; apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise TimeoutError("redis-server does not answer")
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Both stores, filled from the same log."""
    log = folder / "log.parquet"
    figures: dict[str, Any] = {"log": run(generate, rows=plan.online_users * MEAN, path=log)}
    with redis_server(folder) as address:
        for store in ("sqlite", "redis"):
            figures[store] = run(
                serve,
                store=store,
                address=address,
                root=folder / store,
                log=log,
                reads=plan.reads,
                appends=plan.appends,
            )
            say(f"{store}: {brief(figures[store])}")
    return figures
