"""Tests that a feature repository serves a log's features online, and that a refresh keeps newer values."""

import itertools
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml
from feast import FeatureStore

from features.engine import open_engine
from features.feature_repo.sources import CAMPAIGN_STATS, USER_CHANNEL
from features.offline import store
from features.offline.store import REGISTRY, install, without_sources
from features.online.open_history import open_history
from features.sequences import builder as sequences
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.files import remove
from mtorl.window.packed import served, unpack
from mtorl.window.window import AD_DECISION, HISTORY, PACKED, STATIC, instance_from_history
from serving.router.flow.features import FeastSource
from serving.router.flow.requests import DecisionRequest
from tests.features.feature_run import (
    COUNTED,
    DAY,
    HOUR,
    US,
    FeatureRun,
    check_router_reads,
    expected_features,
    known_since,
    micros,
    nearly_equal,
    plain,
    random_journeys,
    with_one_more_touchpoint,
    with_times,
)
from tests.features.online_histories import Touchpoint, append
from tests.repository import ROOT

# ---- online


def test_the_router_reads_the_features_of_the_log(finished_run):
    for campaign in ("c1", "c2", "of another log"):
        check_router_reads(finished_run, finished_run.log, campaign=campaign)


def test_nothing_after_its_end_is_materialised(toy, make):
    log = random_journeys(toy, 6)
    run, end = make(log), known_since(log).quantile(0.6).floor("us")
    store.materialize(run.root, run.spec, run.path, end.to_pydatetime())
    past = log[known_since(log) <= end].assign(created_timestamp=lambda rows: known_since(rows))
    for user, found in run.read(list(past["user_id"].unique()), end + US).items():
        expected = expected_features(run.spec, past, user, "c1", end + US)
        lists = toy.past(past, user, end + US)
        assert found.has_history == (end + US - past[past["user_id"] == user]["timestamp"].max() <= 30 * DAY)
        lists = lists if found.has_history else {}
        assert {n: plain(values) for n, values in found.history.items()} == lists
        assert [n for n in COUNTED if not nearly_equal(found.aggregates[n], expected[n])] == []


def test_what_has_expired_is_not_served_though_feast_itself_would(toy, finished_run):
    views = {view.name: view for view in FeatureStore(repo_path=str(finished_run.root)).list_feature_views()}
    newest = finished_run.log["timestamp"].max()
    late = newest.ceil("D") + views[HISTORY].ttl
    (fresh,), (stale,) = (finished_run.read(["u1"], at).values() for at in (newest + US, late))
    assert fresh.has_history and not stale.has_history
    assert stale.history == {}
    assert stale.static == fresh.static, "static features do not expire"
    assert stale.aggregates == {
        **{"uc_touchpoints": [0.0] * 3, "uc_clicks": [0.0] * 3, "campaign_touchpoints": 0.0},
        **dict.fromkeys(["campaign_click_rate", "campaign_conversion_rate", "campaign_cost"]),
    }
    # Each view has its own TTL.
    (later,) = finished_run.read(["u1"], newest.ceil("h") + views[CAMPAIGN_STATS].ttl + US).values()
    assert later.has_history and later.aggregates["campaign_touchpoints"] == 0.0
    assert sum(later.aggregates["uc_touchpoints"]) > 0

    opened = FeatureStore(repo_path=str(finished_run.root))
    row = {"user_id": "u1", "campaign_id": "c1"}
    answer = opened.get_online_features(features=opened.get_feature_service(AD_DECISION), entity_rows=[row]).to_dict()
    assert served(unpack(answer[PACKED][0]))["hist_channel"] == fresh.history["hist_channel"]


def test_an_unknown_user_differs_from_a_user_with_nulls_only(toy, make):
    log = toy.log(seed=9).assign(age=None, tenure=None, hour=None, order=None)
    run = make(log)
    store.materialize(run.root, run.spec, run.path)
    at = log["timestamp"].max() + US
    found = run.read(["u1", "nobody"], at)
    assert found["u1"].static == found["nobody"].static == {"age": None, "tenure": None}
    assert (found["u1"].has_history, found["nobody"].has_history) == (True, False)
    one, other = (instance_from_history(user.history, {}, user.static, toy.spec, micros(at)) for user in found.values())
    assert len(one["prev_channel"]) > 1 and set(one["context"]["order"]) == {None}
    assert other["prev_channel"] == [None] and other["context"] == {"hour": [None], "order": [None]}


# ---- a growing log


def test_refresh_can_write_some_users_or_views_only_and_brings_all_up_to_date(toy, make):
    run = make(toy.log(seed=3))
    store.materialize(run.root, run.spec, run.path)
    registry = (run.root / "registry.db").read_bytes()
    log = with_one_more_touchpoint(toy, run.log, ["u0", "u1", "newcomer"])
    path = replace(run, log=log).path
    assert store.materialize(run.root, run.spec, path, users=["u1", "of another log"]).users == 1
    check_router_reads(run, log, users=["u1"])
    (left,) = run.read(["u0"], at := log["timestamp"].max() + US).values()
    assert {name: plain(values) for name, values in left.history.items()} == toy.past(run.log, "u0", at)
    expected = expected_features(run.spec, log, "u0", "c1", at)
    assert left.aggregates["campaign_touchpoints"] == expected["campaign_touchpoints"]
    assert store.materialize(run.root, run.spec, path, views=[STATIC]).written == 1, "the new user's row"
    assert repr(run.read(["u0"], at)) == repr({"u0": left})  # as text, because NaN != NaN
    assert store.materialize(run.root, run.spec, path).users == log["user_id"].nunique()
    check_router_reads(run, log)
    assert (run.root / "registry.db").read_bytes() == registry, "a router may be reading the registry"


@pytest.mark.parametrize("delay", [US, HOUR])
def test_a_late_touchpoint_comes_with_the_next_refresh(toy, make, delay):
    log = toy.log(seed=2).assign(created_timestamp=lambda rows: rows["timestamp"])
    late = log.sort_values("timestamp").groupby("user_id").nth(-2).index
    run = make(log.drop(late))
    store.materialize(run.root, run.spec, run.path)
    log.loc[late, "created_timestamp"] = log["timestamp"].max() + delay
    store.materialize(run.root, run.spec, replace(run, log=log).path)
    check_router_reads(run, log)


@pytest.mark.parametrize("pause", [US, pd.Timedelta("300ms"), HOUR])
def test_a_refresh_keeps_touchpoints_appended_online(toy, make, pause):
    run = make(toy.log(seed=3))
    store.materialize(run.root, run.spec, run.path)
    newest = run.log.loc[run.log["user_id"] == "u1", "timestamp"].max()
    shown = (newest + pause).to_pydatetime()
    with open_history(run.root, run.spec) as history:
        assert append(history, "u1", Touchpoint(shown, "video", {"hour": 9.0}, {"click": 1.0}))
    at = run.log["timestamp"].max() + DAY
    (appended,) = run.read(["u1"], at).values()
    assert appended.history["hist_click"][-1] == 1.0
    for log in (run.log, with_one_more_touchpoint(toy, run.log, ["u0"], after=2 * HOUR)):  # neither has the touchpoint
        store.materialize(run.root, run.spec, replace(run, log=log).path)
        (kept,) = run.read(["u1"], at).values()
        assert kept.history == appended.history
    # The refreshing log lacks the appended touchpoint, which must stay.
    newer = with_one_more_touchpoint(toy, run.log, ["u1"], after=30 * HOUR)
    store.materialize(run.root, run.spec, replace(run, log=newer).path)
    (both,) = run.read(["u1"], newer["timestamp"].max() + US).values()
    assert both.history["hist_timestamp"][-2:] == [micros(pd.Timestamp(shown)), micros(newer["timestamp"].max())]
    assert both.history["hist_click"][-2] == 1.0


# ---- incremental refreshes


@pytest.mark.parametrize(("kind", "seed", "timed"), [("sqlite", 1, ()), ("redis", 2, ("conversion", "revenue"))])
def test_a_resumed_run_leaves_the_state_of_a_full_run_and_writes_changes(toy, tmp_path, redis_port, kind, seed, timed):
    """The log spans weeks, so touchpoints outgrow the aggregates. One of the runs is killed."""
    spec = toy.spec.replace(timed=timed)
    log = with_times(random_journeys(toy, seed), timed, seed)
    going_on = FeatureRun(toy, tmp_path / "going-on", log, spec, redis_port if kind == "redis" else 0)
    spec = going_on.create().spec
    whole = FeatureRun(toy, tmp_path / "whole", log, spec)
    since, looked_at = None, []
    for number, end in enumerate(pd.date_range(known_since(log).quantile(0.2), known_since(log).max(), periods=6)):
        then = log[known_since(log) <= end]
        path = replace(going_on, log=then).path
        # Simulate a run killed after one of its views.
        if number == 3:
            store.materialize(going_on.root, spec, path, views=[HISTORY], since=since)
        since = store.materialize(going_on.root, spec, path, since=since)
        looked_at.append(since.users)
        remove(whole.root)
        store.define(whole.root, spec)
        store.materialize(whole.root, spec, path)
        users = sorted(then["user_id"].unique())
        assert repr(going_on.read(users, end + US)) == repr(whole.read(users, end + US)), number
    assert store.materialize(going_on.root, spec, path, since=since).written == 0, "nothing is new"
    assert store.materialize(going_on.root, spec, path).written == 0, "nothing is missing"
    assert min(looked_at[1:]) < len(users)


def test_new_rows_with_earlier_times_are_found(toy, make):
    log = toy.log(seed=3)
    early = log.groupby("user_id").head(1).index[:1]
    run = make(log.drop(early))
    before = store.materialize(run.root, run.spec, run.path)
    whole = replace(run, log=log)
    assert store.materialize(run.root, run.spec, whole.path, since=before).users == log["user_id"].nunique()


# ---- the repository


def test_a_second_create_updates_in_place_and_drops_removed_definitions(toy, make):
    run = make(toy.log())
    settings = (run.root / "feature_store.yaml").read_text() + "# mine\n"
    (run.root / "feature_store.yaml").write_text(settings)

    def views() -> tuple[set[str], list[str]]:
        opened = FeatureStore(repo_path=str(run.root))
        service = opened.get_feature_service(AD_DECISION)
        return {v.name for v in opened.list_feature_views()}, [p.name for p in service.feature_view_projections]

    everything = {HISTORY, STATIC, USER_CHANNEL, CAMPAIGN_STATS}
    run.create()
    assert views()[0] == everything and STATIC in views()[1]
    replace(run, spec=toy.spec.replace(static=(), segment=None)).create()
    assert views()[0] == everything - {STATIC} and STATIC not in views()[1]
    assert (run.root / "feature_store.yaml").read_text() == settings
    with sqlite3.connect(run.root / "online.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_feast_prints_nothing(toy, make, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = make(toy.log())
        with open_engine() as engine:
            sequences.build(engine, run.path, run.spec, run.folder / "windows")
        store.materialize(run.root, run.spec, run.path)
        store.training_windows(run.root, run.folder / "windows", run.spec)
        store.materialize(run.root, run.spec, run.path)
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in caught if not issubclass(w.category, ResourceWarning)]


# ---- other processes

STRANGER = """
import json, sys
sys.modules["features"] = None  # as if it were not installed
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
service = store.get_feature_service("ad_decision_v1")
row = {"user_id": "u1", "campaign_id": "c1"}
answer = store.get_online_features(features=service, entity_rows=[row]).to_dict()
print(json.dumps({name: value.hex() if isinstance(value, bytes) else value for name, (value,) in answer.items()}))
assert not [name for name in sys.modules if name.split(".")[0] == "mtorl"]
"""


@pytest.mark.integration
def test_another_process_reads_the_store_with_plain_feast(finished_run, tmp_path):
    settings = yaml.safe_load((finished_run.root / "feature_store.yaml").read_text())
    # Another reader may lack this project's class of the offline store.
    del settings["offline_store"]
    settings["registry"]["path"], settings["online_store"]["path"] = (
        str(finished_run.root / name) for name in ("registry.db", "online.db")
    )
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", STRANGER, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    said |= served(unpack(bytes.fromhex(said.pop(PACKED))))
    at = finished_run.log["timestamp"].max() + US
    (here,) = finished_run.read(["u1"], at).values()
    expected = {**here.history, **here.static, **here.aggregates, "user_id": "u1", "campaign_id": "c1"}
    assert json.dumps(said, sort_keys=True) == json.dumps(expected, sort_keys=True)  # as text, because NaN != NaN


READER = """
import sys
from pathlib import Path
from serving.router.flow.features import FeastSource
from serving.router.flow.requests import DecisionRequest
root, stop, users, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
source = FeastSource(root, "ad_decision_v1")
requests = [DecisionRequest(f"u{i}", "c1", {}, at) for i in range(users)]
reads, states, last = 0, set(), False
while not last:
    last = reads > 0 and stop.exists()  # one more turn, which meets the final state
    for request in requests:
        (found,) = source.read([request])
        assert found.has_history and found.static["age"] is not None, request
        times = found.history["hist_timestamp"]
        assert times == sorted(set(times)), (request, times)
        assert {len(values) for values in found.history.values()} == {len(times)}, request
        assert found.history["hist_revenue"] == [2 * cost for cost in found.history["hist_cost"]], request
        states.add((request.user_id, times[-1]))
        reads += 1
    if reads == users:
        print("ready", flush=True)
print(reads, len(states))
"""


@pytest.mark.integration
def test_reads_and_appends_continue_during_a_refresh(toy, make, tmp_path):
    users, rounds = 200, 3
    run, stop = make(toy.log(seed=4, users=users)), tmp_path / "stop"
    store.materialize(run.root, run.spec, run.path)
    log, everyone = run.log, list(run.log["user_id"].unique())
    ahead = log["timestamp"].max() + DAY
    command = [sys.executable, "-c", READER, str(run.root), str(stop), str(users), str(micros(ahead + DAY))]
    reader = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    appended: list[int] = []

    def write() -> None:
        with open_history(run.root, run.spec) as history:
            for second in itertools.count():
                if stop.exists():
                    break
                shown = ahead.to_pydatetime() + timedelta(seconds=second)
                outcomes = {"cost": float(second), "revenue": 2.0 * second}
                assert append(history, "u0", Touchpoint(shown, "video", {}, outcomes))
                appended.append(second)

    writer = threading.Thread(target=write)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        writer.start()
        for seed in range(rounds):
            log = with_one_more_touchpoint(toy, log, everyone, seed)
            store.materialize(run.root, run.spec, replace(run, log=log).path)
        stop.touch()
        said, _ = reader.communicate(timeout=120)
    finally:
        stop.touch()
        reader.kill()
        writer.join(60)
    assert reader.returncode == 0
    reads, states = map(int, said.split())
    assert reads >= 2 * users and states >= 2 * users
    (found,) = run.read(["u0"], ahead + DAY).values()
    assert found.history["hist_cost"] == [float(second) for second in appended[-run.spec.window :]]


# ---- installation in the serving folder


@pytest.fixture(scope="module")
def toy_log(toy, tmp_path_factory) -> Path:
    return toy.write(toy.log(seed=1), tmp_path_factory.mktemp("log") / "log.parquet")


def made(folder: Path, spec: DatasetSpec, log: Path) -> Path:
    store.create(folder, spec, log)
    without_sources(folder)
    return folder


@pytest.mark.integration
def test_a_registry_is_replaced_only_by_other_definitions(toy, toy_log, tmp_path):
    place = tmp_path / "features"
    assert install(made(tmp_path / "first", toy.spec, toy_log), place)
    before = (place / REGISTRY).read_bytes()
    # A rebuilt registry has other times and ids, so its bytes differ.
    again = made(tmp_path / "again", toy.spec, toy_log)
    assert (again / REGISTRY).read_bytes() != before
    assert not install(again, place)
    assert (place / REGISTRY).read_bytes() == before
    other = made(tmp_path / "other", toy.spec.replace(window=toy.spec.window + 1, static=(), segment=None), toy_log)
    assert install(other, place)
    assert (place / REGISTRY).read_bytes() == (other / REGISTRY).read_bytes()


@pytest.mark.integration
def test_an_installed_repository_serves_features_and_keeps_settings(toy, toy_log, tmp_path):
    place, repository = tmp_path / "features", made(tmp_path / "made", toy.spec, toy_log)
    place.mkdir()
    settings = yaml.safe_load(store.CONFIG.read_text()) | {"entity_key_serialization_version": 3, "flags": {}}
    (place / store.CONFIG.name).write_text(yaml.safe_dump(settings))
    assert not list(repository.rglob("*.parquet")) and install(repository, place)
    shutil.rmtree(repository)
    assert yaml.safe_load((place / store.CONFIG.name).read_text()) == settings
    assert store.materialize(place, toy.spec, toy_log).users == 12
    (known,) = FeastSource(place, AD_DECISION).read([DecisionRequest("u1", "c1", {}, 2_000_000_000_000_000)])
    assert known.static["age"] == "old"
