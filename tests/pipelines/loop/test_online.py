"""Test that the online store at the start of a replay has the values that training read."""

from pathlib import Path

import pytest

from features.offline.store import build_training_data, install, without_sources
from mtorl.log.times import microseconds
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.window import AD_DECISION
from pipelines.loop.config import LoopConfig
from pipelines.loop.online import Audience, Trained, fill_store
from serving.router.flow.features import FeastSource
from serving.router.flow.requests import DecisionRequest


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    simulator = Simulator(SimulatorConfig(users=120, seed=3))
    log = tmp_path / "data"
    log.mkdir()
    simulator.log().to_parquet(log / LOG_FILE, index=False)
    simulator.spec.save(log / DATASET_FILE)
    (log / INGEST_FILE).write_text('{"fingerprint": "none"}')
    build_training_data(log, tmp_path / "training", tmp_path / "windows")
    without_sources(tmp_path / "training")  # also flushes the store's write-ahead log
    install(tmp_path / "training", tmp_path / "features")
    return Trained(LoopConfig(data="log.csv", rounds=3), tmp_path)


def test_the_store_holds_static_columns_and_all_touchpoints_before_the_replay(trained: Trained) -> None:
    audience, spec = Audience.of(trained), trained.spec
    fill_store(trained, audience)
    source = FeastSource(trained.folder / "features", AD_DECISION, spec)
    opportunities = {user: audience.source.opportunity(user, 0) for user in audience.source.opportunities}
    requests = [
        DecisionRequest(user, first["campaign_id"], first["context"], microseconds(first["timestamp"]))
        for user, first in opportunities.items()
    ]
    assert 0 < len(requests) <= len(trained.held_out_users)
    newcomers = 0
    for request, found in zip(requests, source.read(requests), strict=True):
        journey = trained.log[trained.log["user_id"] == request.user_id]
        before = journey[journey["timestamp"] < opportunities[request.user_id]["timestamp"]].tail(spec.window)
        assert found.history.get("hist_timestamp", []) == [microseconds(at) for at in before["timestamp"]]
        assert found.static == {column.name: journey.iloc[0][column.name] for column in spec.static}
        newcomers += before.empty
    assert 0 < newcomers < len(requests)
