"""Tests that the router reads Feast's values from SQLite and Redis, and no expired or future ones."""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.types import Float64

from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL
from features.feature_repo.views import build
from features.online.history import History
from features.online.open_history import open_history
from mtorl.log.times import microseconds
from mtorl.window.packed import pack, served, unpack
from mtorl.window.window import AD_DECISION, HISTORY, PACKED, STATIC, instance_from_history
from serving.router.flow.features import FeastSource, FeatureReader, ModelInput, RegistryAwaited, UserFeatures
from serving.router.flow.requests import DecisionRequest
from serving.router.messages import REGISTRY_UNFINISHED
from serving.router.ops.settings import SettingsError
from tests.features.feature_run import AGGREGATES
from tests.features.online_histories import Touchpoint, append
from tests.features.online_stores import STORES, write_settings
from tests.messages import raises
from tests.redis_server import redis_server
from tests.serving.router_fixtures import CONTEXT
from tests.serving.router_fixtures import SPEC as WITHOUT_FEATURES

SPEC = WITHOUT_FEATURES.replace(features=AGGREGATES)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR, DAY, TICK = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
LISTS = {"channel": ["video", "search"], "click": [1.0, 0.0], "conversion": [0.0, 0.0], "revenue": [0.0, 2.5]}
LISTS |= {"cost": [0.03, 0.5], "hour": [9.0, 11.0], "device": ["tv", "phone"], "slot": ["top", ""]}
UNKNOWN = {"uc_touchpoints": [0.0, 0.0], "uc_clicks": [0.0, 0.0]}
NO_CAMPAIGN = {f"campaign_{name}": None for name in ("click_rate", "conversion_rate", "cost")} | {
    "campaign_touchpoints": 0.0
}
CAMPAIGN = {"campaign_touchpoints": 8.0, "campaign_click_rate": 0.25, "campaign_conversion_rate": 0.125}
CAMPAIGN |= {"campaign_cost": None}
_ids = itertools.count()


@dataclass
class Stage:
    """A feature repository in which each test has its own user and campaign."""

    repo: Path
    store: FeatureStore
    source: FeastSource
    history: History
    user: str = ""
    campaign: str = ""

    def write(self, view: str, event_time: datetime, **values: Any) -> None:
        key = {"campaign_id": self.campaign} if view == CAMPAIGN_STATS else {"user_id": self.user}
        source = self.store.get_feature_view(view).batch_source
        row = {**key, source.timestamp_field: event_time, source.created_timestamp_column: event_time}
        row |= {name: np.array(value) if isinstance(value, list) else value for name, value in values.items()}
        self.store.write_to_online_store(view, pd.DataFrame([row]))

    def write_all(self) -> None:
        times = [float(microseconds(NOON - age)) for age in (3 * HOUR, HOUR)]
        packed = pack({f"hist_{k}": v for k, v in {"timestamp": times, **LISTS}.items()})
        self.write(HISTORY, NOON - HOUR, **{PACKED: packed})
        self.write(STATIC, NOON - 400 * DAY, age="30-39")
        self.write(USER_CHANNEL, NOON, uc_touchpoints=[1.0, 1.0], uc_clicks=[0.0, 1.0])
        self.write(CAMPAIGN_STATS, NOON, **CAMPAIGN)

    def read(self, at: datetime, **ids: str) -> UserFeatures:
        (found,) = self.source.read([self.request(at, **ids)])
        return found

    def request(self, at: datetime, **ids: str) -> DecisionRequest:
        ids = {"user_id": self.user, "campaign_id": self.campaign, **ids}
        return DecisionRequest(**ids, context=CONTEXT, at=microseconds(at))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    folder = tmp_path_factory.mktemp("features")
    with redis_server(folder) as port:
        made = {}
        for kind in STORES:
            repo = folder / kind
            write_settings(repo, kind, port)
            store = FeatureStore(repo_path=str(repo))
            store.apply(build(SPEC, repo / "data").objects)
            made[kind] = Stage(repo, store, FeastSource(repo, AD_DECISION), open_history(repo, SPEC))
        yield made
        for stage in made.values():
            stage.history.store.close()


@pytest.fixture(params=STORES)
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    found, number = stages[request.param], next(_ids)
    found.user, found.campaign = f"user {number}", f"campaign {number}"
    return found


def test_features_equal_those_that_feast_reads(stage: Stage) -> None:
    stage.write_all()
    at = NOON + timedelta(minutes=30)
    found = stage.read(at)
    assert found.has_history and found.static == {"age": "30-39"}
    assert {k: v for k, v in found.history.items() if k != "hist_timestamp"} == {
        f"hist_{k}": v for k, v in LISTS.items()
    }
    assert found.aggregates == {"uc_touchpoints": [1.0, 1.0], "uc_clicks": [0.0, 1.0], **CAMPAIGN}
    answer = stage.store.get_online_features(
        features=stage.store.get_feature_service(AD_DECISION),
        entity_rows=[{"user_id": stage.user, "campaign_id": stage.campaign}],
    ).to_dict()
    feast = {name: values[0] for name, values in answer.items() if name not in ("user_id", "campaign_id")}
    assert {**served(unpack(feast.pop(PACKED))), **feast} == {**found.history, **found.static, **found.aggregates}


def test_a_decision_without_outcomes_is_in_no_window(stage: Stage) -> None:
    append(stage.history, stage.user, Touchpoint(NOON - HOUR, "video", CONTEXT))
    exposure, cost = Touchpoint(NOON - HOUR / 2, "search", CONTEXT, {"cost": 0.5}).changes(stage.history)
    assert stage.history.change({stage.user: [exposure]}) and stage.read(NOON).history["hist_channel"] == ["video"]
    assert stage.history.change({stage.user: [cost]}) and stage.read(NOON).history["hist_cost"] == [0.0, 0.5]


def test_unknown_users_and_campaigns_have_the_declared_defaults(stage: Stage) -> None:
    stage.write_all()
    at = NOON + TICK
    stranger, elsewhere = stage.read(at, user_id="stranger"), stage.read(at, campaign_id="elsewhere")
    assert not stranger.has_history and stranger.history == {} and stranger.static == {"age": None}
    assert stranger.aggregates == {**UNKNOWN, **CAMPAIGN}
    assert elsewhere.has_history and NO_CAMPAIGN.items() <= elsewhere.aggregates.items()


@pytest.mark.parametrize(
    ("feature", "written", "life", "default"),
    [("campaign_touchpoints", NOON, DAY, 0.0), ("uc_touchpoints", NOON, 7 * DAY, [0.0, 0.0])],
)
def test_a_value_ends_at_its_ttl(stage: Stage, feature: str, written: datetime, life: timedelta, default: Any) -> None:
    stage.write_all()
    assert stage.read(written + life).aggregates[feature] != default
    ended = stage.read(written + life + TICK)
    assert ended.aggregates[feature] == default and ended.static == {"age": "30-39"}  # static features have no TTL
    assert ended.has_history and ended.history["hist_channel"]


def test_values_that_are_not_older_than_the_decision_are_not_read(stage: Stage) -> None:
    stage.write_all()
    found = stage.read(NOON)  # the aggregates have this time
    assert {**UNKNOWN, **NO_CAMPAIGN}.items() <= found.aggregates.items()
    early = stage.read(NOON - 2 * HOUR)  # between the two touchpoints
    assert early.has_history
    window = instance_from_history(early.history, CONTEXT, early.static, SPEC, microseconds(NOON - 2 * HOUR))
    assert window["prev_channel"] == [None, "video"]


def test_a_history_is_as_old_as_its_newest_touchpoint_before_the_decision(stage: Stage) -> None:
    for at in (NOON, NOON + 40 * DAY):
        append(stage.history, stage.user, Touchpoint(at, "search", CONTEXT))
    moments = (NOON, NOON + TICK, NOON + 30 * DAY, NOON + 30 * DAY + TICK, NOON + 40 * DAY, NOON + 40 * DAY + HOUR)
    found = [stage.read(at) for at in moments]
    assert [user.has_history for user in found] == [False, True, True, False, False, True]
    assert [bool(user.history) for user in found] == [user.has_history for user in found]


def test_many_requests_are_answered_in_their_order(stage: Stage) -> None:
    stage.write_all()
    late = NOON + 2 * DAY
    requests = [stage.request(NOON + HOUR), stage.request(late, user_id="stranger"), stage.request(late)]
    found = stage.source.read([*requests, *requests])
    assert found[:3] == found[3:] == [stage.source.read([request])[0] for request in requests]
    assert [user.has_history for user in found[:3]] == [True, False, True]
    assert [user.aggregates["campaign_touchpoints"] for user in found[:3]] == [8.0, 0.0, 0.0]


def test_concurrent_reads_do_not_mix_up_rows(stage: Stage) -> None:
    users = [f"{stage.user} {n}" for n in range(12)]
    for n, stage.user in enumerate(users):
        stage.write(USER_CHANNEL, NOON, uc_touchpoints=[float(n), 1.0], uc_clicks=[0.0, 0.0])
    requests = [stage.request(NOON + HOUR, user_id=user) for user in users]
    expected = [[float(n), 1.0] for n in range(12)]

    def reads(thread: int) -> list[int]:
        wrong = []
        for read in range(400):
            n = (read + 3 * thread) % 12
            found = stage.source.read(requests[n:])
            if [user.aggregates["uc_touchpoints"] for user in found] != expected[n:]:
                wrong.append(read)
        return wrong

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(reads, range(4))) == [[], [], [], []]


def test_an_unsuitable_repository_is_refused_with_a_reason(stages: dict[str, Stage], tmp_path: Path) -> None:
    write_settings(tmp_path, "sqlite")
    made = build(SPEC, tmp_path / "data")
    score, source = [Field(name="score", dtype=Float64)], made.views[0].batch_source  # without a default
    bare = FeatureView(name="bare", entities=[made.entities[0]], schema=score, source=source)
    channel = Entity(name="channel", join_keys=["channel"], value_type=ValueType.STRING)
    by_channel = FeatureView(name="per_channel", entities=[channel], schema=score, source=source)
    services = [FeatureService(name=view.name, features=[view]) for view in (bare, by_channel)]
    store = FeatureStore(repo_path=str(tmp_path))
    store.apply([*made.objects, channel, bare, by_channel, *services])
    # Feast overwrites the registry in place, so a new file may be incomplete.
    with raises(RegistryAwaited, REGISTRY_UNFINISHED):
        FeastSource(tmp_path, "absent")
    os.utime(tmp_path / "registry.db", (0, 0))
    for service in ("bare", "per_channel", "absent"):
        with pytest.raises(SettingsError, match=service):
            FeastSource(tmp_path, service)
    store.apply(build(WITHOUT_FEATURES, tmp_path / "data").service)
    os.utime(tmp_path / "registry.db", (0, 0))
    with pytest.raises(SettingsError, match="ad_decision_v1 lacks campaign_click_rate"):
        FeastSource(tmp_path, AD_DECISION, SPEC)


def test_the_model_gets_the_features_that_the_data_set_description_names(stage: Stage) -> None:
    stage.write_all()
    reader = FeatureReader(stage.source, SPEC)
    known, stranger = reader.read([stage.request(NOON + HOUR), stage.request(NOON + HOUR, user_id="?")])
    assert isinstance(known, ModelInput) and isinstance(stranger, ModelInput)
    columns = {f"uc_{what}_{channel}": 0.0 for what in ("touchpoints", "clicks") for channel in SPEC.channels}
    assert stranger.window["features"] == {**columns, **CAMPAIGN}
    columns |= {f"uc_touchpoints_{channel}": 1.0 for channel in SPEC.channels} | {f"uc_clicks_{SPEC.channels[1]}": 1.0}
    assert known.window["features"] == {**columns, **CAMPAIGN}
    assert known.window["prev_channel"] == [None, "video", "search"]
    assert known.window["context"]["slot"] == ["top", None, "top"]  # "" in the log means unknown


def test_a_request_that_fails_in_the_store_fails_no_other() -> None:
    class Source:
        def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
            if any(request.user_id == "bad" for request in requests):
                raise ValueError("bad")
            return [UserFeatures({}, {"age": request.user_id}, has_history=True) for request in requests]

    context = {column.name: 1.0 if column.kind == "numeric" else "a" for column in SPEC.context}
    good, bad, other = FeatureReader(Source(), SPEC).read(
        [DecisionRequest(user, "c", context, at=0) for user in ("good", "bad", "other")]
    )
    assert isinstance(good, ModelInput) and isinstance(bad, ValueError) and isinstance(other, ModelInput)
