"""Test that a Redis Cluster of three nodes works as online store."""

from pathlib import Path

import pandas as pd
import pytest
import redis

from features.offline import store
from features.online.feed import Feed
from features.online.open_history import forget_online, open_history
from features.online.written import Repository, StoreEmptied, Written
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.window import AD_DECISION
from serving.router.flow.features import FeastSource
from serving.router.flow.requests import DecisionRequest
from tests.features.online_stores import write_settings
from tests.redis_server import redis_cluster


@pytest.mark.integration
def test_reads_and_writes_use_the_node_that_has_the_key(tmp_path: Path) -> None:
    simulator = Simulator(SimulatorConfig(users=40, seed=1))
    spec, repo, log = simulator.spec, tmp_path / "features", tmp_path / "log.parquet"
    simulator.log().to_parquet(log, index=False)
    with redis_cluster(tmp_path) as ports:
        places = ",".join(f"127.0.0.1:{port}" for port in ports[:2])
        options = "socket_timeout=30,socket_connect_timeout=10"
        connection = {"redis_type": "redis_cluster", "connection_string": f"{places},{options}"}
        write_settings(repo, "redis", **connection, key_ttl_seconds=500)
        store.define(repo, spec)
        done = store.materialize(repo, spec, log)
        assert done.users == 40 and done.written >= 3 * 40
        assert store.materialize(repo, spec, log).written == 0
        nodes = [redis.Redis(port=port) for port in ports]
        assert all(node.dbsize() > 5 for node in nodes) and sum(node.dbsize() for node in nodes) >= 40
        assert all(0 < node.ttl(key) <= 500 for node in nodes for key in node.scan_iter())

        at = pd.read_parquet(log)["timestamp"].max().value // 1000 + 1
        users = [f"u{number:06d}" for number in range(40)]
        source = FeastSource(repo, AD_DECISION, spec)

        def found() -> list[bool]:
            return [user.has_history for user in source.read([DecisionRequest(u, "c", {}, at) for u in users])]

        before = sum(found())
        assert before > 30

        with open_history(repo, spec) as history:
            feed, context = Feed(history, repo), {"hour": 9.0, "device": "mobile", "placement": "feed"}
            when = pd.Timestamp(at, unit="us", tz="UTC").isoformat()
            shown = {"request_time": when, "event_time": when, "channel": "search", "context": context}
            events = []
            for number, user in enumerate(users):
                name = f"0193{number:04x}-0000-7{number % 64:02x}0-8000-000000000000"
                decision = {"decision_id": name, "user_id": user, **shown, "expose": True, "withdrawn": False}
                cost = {"event_id": f"{name}-cost", "decision_id": name, "kind": "cost", "value": 0.5}
                cost |= {"event_time": when, "received_time": when}
                events += [("mtorl.outcome.v1", cost), ("mtorl.decision.v1", decision)]
            for event in events:
                feed.take([event])
            assert feed.take(events) == 0, "all events were written before"
        at += 1
        assert sum(found()) == 40
        assert forget_online(repo, users[:20]) == 20 and sum(found()) == 20
        left = [node.hgetall(key) for node in nodes for key in node.keys("mtorl:feed:0193*")]
        assert sorted(user for notes in left for user in notes.values()) == [user.encode() for user in users[20:]]

        repository, written = Repository(repo), Written("log", "definitions", 1.0, done.until, done.rows)
        with repository.writing(written):
            pass
        assert repository.written() == written
        with pytest.raises(StoreEmptied), repository.writing(written):
            for node in nodes:
                node.flushall()
        assert repository.written() is None
