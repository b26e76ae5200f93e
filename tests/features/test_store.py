from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features import store
from features.sources import history_types
from mtorl.splits import split_of
from mtorl.windows import WindowBatch, instance_from_history

MICROSECOND = pd.Timedelta(1, "us")


def open_like_the_router(root: Path):
    from feast import FeatureStore

    opened = FeatureStore(repo_path=str(root))
    return opened, opened.get_feature_service("ad_decision_v1")


def windows(toy, log: pd.DataFrame, root: Path, spec=None) -> pd.DataFrame:
    spec = spec or toy.spec
    path = toy.write(log, root.parent / "log.parquet")
    store.create(root, spec, path)
    assert store.training_windows(root, path, spec, root.parent / "windows.parquet") == len(log)
    return pd.read_parquet(root.parent / "windows.parquet")


def check_history_by_hand(toy, plain, log: pd.DataFrame, table: pd.DataFrame) -> None:
    for row in table.itertuples():
        expected = toy.past(log, row.user_id, row.timestamp)
        assert {name: plain(getattr(row, name)) for name in expected} == expected


@pytest.fixture(scope="module")
def laid(toy, tmp_path_factory):
    """One repository with everything done to it; tests only read it."""
    folder = tmp_path_factory.mktemp("laid")
    log = toy.log(seed=3)
    table = windows(toy, log, folder / "features")
    store.materialize(folder / "features")
    return SimpleNamespace(root=folder / "features", log=log, path=folder / "log.parquet", windows=table)


# ---- training windows


def test_windows_table_is_the_log_with_its_strict_past(toy, plain, laid):
    spec, log, table = toy.spec, laid.log, laid.windows
    assert len(table) == len(log)
    scalars = ["user_id", "timestamp", "step", "journey", "split", "campaign_id", "channel", "cost", "click"]
    scalars += ["conversion", "revenue", "propensity", "hour", "order", "age", "tenure"]
    assert list(table.columns) == [*scalars, *history_types(spec)]

    expected = log.sort_values(["user_id", "timestamp"], ignore_index=True)
    for name in (*spec.columns,):
        assert [plain([v])[0] for v in table[name]] == [plain([v])[0] for v in expected[name]], name
    assert (table["step"] == expected.groupby("user_id").cumcount()).all()
    assert (table["journey"] == expected.groupby("user_id")["user_id"].transform("size")).all()
    assert (table["split"] == split_of(expected["user_id"])).all()
    check_history_by_hand(toy, plain, log, table)


def test_a_history_ends_strictly_before_its_row(laid):
    some = 0
    for row in laid.windows.itertuples():
        if len(row.hist_timestamp):
            some += 1
            assert row.hist_timestamp[-1] < row.timestamp.value // 1000
    assert some > len(laid.windows) / 2
    gaps = laid.windows.groupby("user_id")["timestamp"].diff()
    assert (gaps == MICROSECOND).any(), "the toy log must hold touches one microsecond apart"


def test_touches_of_different_users_at_the_same_time_do_not_mix(toy, plain, tmp_path):
    log = pd.concat([toy.log(seed=1, users=1).assign(user_id=user) for user in ("a", "b", "c")], ignore_index=True)
    rng = np.random.default_rng(0)
    more = [toy.touch(user, log["timestamp"].max() + MICROSECOND, 1, rng) for user in ("a", "b", "c")]
    log = pd.concat([log, pd.DataFrame(more)], ignore_index=True)
    table = windows(toy, log, tmp_path / "features")
    check_history_by_hand(toy, plain, log, table)


def test_first_rows_have_no_history_but_static_features(laid):
    first = laid.windows[laid.windows["step"] == 0]
    assert first["user_id"].is_unique and set(first["user_id"]) == set(laid.log["user_id"])
    assert (first["hist_channel"].map(len) == 0).all()
    assert first["age"].notna().all()
    assert list(first["user_id"][first["tenure"].isna()]) == ["u2"]
    assert list(first["user_id"][first["age"] == "old"]) == ["u1"]
    assert laid.windows.set_index("user_id").loc["u0", "journey"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_touch_that_arrived_late_is_unknown_until_then(toy, plain, tmp_path, seed):
    log = toy.log(seed, late=0.4)
    table = windows(toy, log, tmp_path / "features")
    check_history_by_hand(toy, plain, log, table)
    on_time = log.drop(columns="created_timestamp")
    hidden = sum(
        len(toy.past(on_time, row.user_id, row.timestamp, n=99)["hist_channel"])
        - len(toy.past(log, row.user_id, row.timestamp, n=99)["hist_channel"])
        for row in table.itertuples()
    )
    assert hidden > 0, "nothing was late: the test shows nothing"


def test_windows_read_as_the_models_input(toy, laid):
    batch = WindowBatch.from_joined(pq.read_table(laid.path.parent / "windows.parquet"), toy.spec, targets=True)
    assert len(batch) == len(laid.log)
    steps = laid.windows["step"].to_numpy()
    assert (batch.length_B == np.minimum(steps + 1, toy.spec.window)).all()


def test_a_data_set_without_static_columns(toy, plain, tmp_path):
    spec = replace(toy.spec, static=(), segment=None)
    log = toy.log(seed=5)
    table = windows(toy, log, tmp_path / "features", spec)
    assert "age" not in table and "tenure" not in table
    check_history_by_hand(toy, plain, log, table)
    store.materialize(tmp_path / "features")
    history, static, found = store.online_features(*open_like_the_router(tmp_path / "features"), "u1")
    assert found and static == {} and set(history) == set(history_types(spec))


# ---- online features


def test_online_history_is_the_last_n_touches_of_the_log(toy, plain, laid):
    opened = open_like_the_router(laid.root)
    end = laid.log["timestamp"].max() + MICROSECOND
    for user, rows in laid.log.groupby("user_id"):
        history, static, found = store.online_features(*opened, user)
        assert found
        assert {name: plain(values) for name, values in history.items()} == toy.past(laid.log, user, end)
        assert [static["age"], static["tenure"]] == [plain([rows[name].iloc[0]])[0] for name in ("age", "tenure")]


def test_the_routers_own_calls(laid):
    opened, service = open_like_the_router(laid.root)
    answer = opened.get_online_features(features=service, entity_rows=[{"user_id": "u1"}])
    names = list(answer.proto.metadata.feature_names.val)
    values = dict(zip(names, (result.values[0] for result in answer.proto.results), strict=True))
    assert values["age"].string_val == "old"
    assert list(values["hist_channel"].string_list_val.val) == answer.to_dict()["hist_channel"][0]


def test_unknown_user_has_nulls_only(toy, laid):
    opened, service = open_like_the_router(laid.root)
    answer = opened.get_online_features(features=service, entity_rows=[{"user_id": "nobody"}]).to_dict()
    assert {name: value for name, value in answer.items() if value != [None]} == {"user_id": ["nobody"]}
    history, static, found = store.online_features(opened, service, "nobody")
    assert not found and static == {"age": None, "tenure": None}
    instance = instance_from_history(history, {"hour": 7.0, "order": "first"}, static, toy.spec)
    assert instance["prev_channel"] == [None]


def test_serving_sees_what_training_saw(toy, tmp_path):
    """One more touch a user: its offline window equals the one made of the online history before it, bit for bit."""
    log = toy.log(seed=8)
    rng = np.random.default_rng(8)
    at = log["timestamp"].max() + pd.Timedelta("1h")
    nexts = pd.DataFrame([toy.touch(user, at, 1, rng) for user in log["user_id"].unique()])
    nexts["age"] = nexts["user_id"].map(log.groupby("user_id")["age"].first())
    windows(toy, pd.concat([log, nexts], ignore_index=True), tmp_path / "features")
    offline = pq.read_table(tmp_path / "windows.parquet", filters=[("timestamp", "=", at)])

    store.materialize(tmp_path / "features", end=(at - MICROSECOND).to_pydatetime())
    opened = open_like_the_router(tmp_path / "features")
    instances = []
    for row in offline.select(["user_id", "hour", "order"]).to_pylist():
        history, static, found = store.online_features(*opened, row.pop("user_id"))
        assert found
        instances.append(json.loads(json.dumps(instance_from_history(history, row, static, toy.spec))))
    served, trained = WindowBatch.from_instances(instances, toy.spec), WindowBatch.from_joined(offline, toy.spec)
    assert served.length_B.tobytes() == trained.length_B.tobytes()
    assert served.prev_channel_N.tobytes() == trained.prev_channel_N.tobytes()
    for name, values in served.prev_outcomes.items():
        assert values.tobytes() == trained.prev_outcomes[name].tobytes()
    for one, other in ((served.context, trained.context), (served.static, trained.static)):
        for name, values in one.items():
            if hasattr(values, "codes"):
                assert texts(values) == texts(other[name])
            else:
                np.testing.assert_array_equal(values, other[name])


def texts(values) -> list[str | None]:
    return [values.values[code] if code >= 0 else None for code in values.codes]


# ---- the log grows


def grown(toy, log: pd.DataFrame, users: list[str], seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = log["timestamp"].max() + pd.Timedelta("1h")
    static = log.groupby("user_id")[["age", "tenure"]].first()
    more = pd.DataFrame([toy.touch(user, at, 7, rng) for user in users])
    for name in static:
        more[name] = [static[name].get(user, value) for user, value in zip(more["user_id"], more[name], strict=True)]
    return pd.concat([log, more], ignore_index=True)


def test_refresh_brings_all_users_up_to_date(toy, plain, laid, tmp_path):
    root = tmp_path / "features"
    store.create(root, toy.spec, laid.path)
    store.materialize(root)
    registry = (root / "registry.db").read_bytes()
    log = grown(toy, laid.log, ["u0", "u1", "newcomer"])
    path = toy.write(log, tmp_path / "log.parquet")
    assert store.refresh(root, toy.spec, path) == log["user_id"].nunique()
    opened = open_like_the_router(root)
    end = log["timestamp"].max() + MICROSECOND
    for user in log["user_id"].unique():
        history, static, found = store.online_features(*opened, user)
        assert found and static["age"] is not None
        assert {name: plain(values) for name, values in history.items()} == toy.past(log, user, end)
    assert (root / "registry.db").read_bytes() == registry, "a router may be reading it"
    # The offline side knows the grown log as well.
    assert store.training_windows(root, path, toy.spec, tmp_path / "windows.parquet") == len(log)
    check_history_by_hand(toy, plain, log, pd.read_parquet(tmp_path / "windows.parquet"))


def test_refresh_can_write_some_users_only(toy, plain, laid, tmp_path):
    root = tmp_path / "features"
    store.create(root, toy.spec, laid.path)
    store.materialize(root)
    log = grown(toy, laid.log, ["u0", "u1"])
    written = store.refresh(root, toy.spec, toy.write(log, tmp_path / "log.parquet"), users=["u1", "of another log"])
    assert written == 1
    opened = open_like_the_router(root)
    end = log["timestamp"].max() + MICROSECOND
    for user, truth in (("u0", laid.log), ("u1", log)):
        history, _, _ = store.online_features(*opened, user)
        assert {name: plain(values) for name, values in history.items()} == toy.past(truth, user, end)
    assert store.refresh(root, toy.spec, tmp_path / "log.parquet", users=[]) == 0


def test_a_touch_that_arrives_late_reaches_the_online_store_with_the_next_refresh(toy, plain, tmp_path):
    log = toy.log(seed=2).assign(created_timestamp=lambda rows: rows["timestamp"])
    late = log.sort_values("timestamp").groupby("user_id").nth(-2).index
    root = tmp_path / "features"
    store.create(root, toy.spec, toy.write(log.drop(late), tmp_path / "log.parquet"))
    store.materialize(root)
    log.loc[late, "created_timestamp"] = log["timestamp"].max() + pd.Timedelta("1h")
    store.refresh(root, toy.spec, toy.write(log, tmp_path / "log.parquet"))
    opened = open_like_the_router(root)
    for user in log["user_id"].unique():
        history, _, _ = store.online_features(*opened, user)
        expected = toy.past(log, user, log["created_timestamp"].max() + MICROSECOND)
        assert {name: plain(values) for name, values in history.items()} == expected


# ---- the repository


def test_create_again_updates_in_place_and_drops_what_the_data_set_no_longer_defines(toy, laid, tmp_path):
    root = tmp_path / "features"
    store.create(root, toy.spec, laid.path)
    config = (root / "feature_store.yaml").read_text() + "# mine\n"
    (root / "feature_store.yaml").write_text(config)
    store.create(root, toy.spec, laid.path)
    assert {v.name for v in open_like_the_router(root)[0].list_feature_views()} == {"user_history", "user_static"}
    store.create(root, replace(toy.spec, static=(), segment=None), laid.path)
    opened, service = open_like_the_router(root)
    assert [v.name for v in opened.list_feature_views()] == ["user_history"]
    assert [p.name for p in service.feature_view_projections] == ["user_history"]
    assert (root / "feature_store.yaml").read_text() == config


def test_views_have_owner_and_no_expiry_that_only_training_would_feel(laid):
    opened, service = open_like_the_router(laid.root)
    for view in opened.list_feature_views():
        assert view.owner and view.tags["owner"] == view.owner
        assert not view.ttl
    assert service.tags["owner"]
    with sqlite3.connect(laid.root / "online.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_feast_keeps_quiet(toy, laid, tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.create(tmp_path / "features", toy.spec, laid.path)
        store.materialize(tmp_path / "features")
        store.training_windows(tmp_path / "features", laid.path, toy.spec, tmp_path / "windows.parquet")
        store.refresh(tmp_path / "features", toy.spec, laid.path)
    assert capfd.readouterr() == ("", "")
    assert not [str(w.message) for w in caught if not issubclass(w.category, ResourceWarning)]


# ---- other processes

ROUTER = """
import json, sys
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
service = store.get_feature_service("ad_decision_v1")
answer = store.get_online_features(features=service, entity_rows=[{"user_id": "u1"}]).to_dict()
print(json.dumps({"answer": answer, "ours": [m for m in sys.modules if m.split(".")[0] in ("features", "mtorl")]}))
"""


@pytest.mark.integration
def test_another_process_reads_without_our_definitions(laid, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ROUTER, str(laid.root)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["ours"] == []
    opened, service = open_like_the_router(laid.root)
    here = opened.get_online_features(features=service, entity_rows=[{"user_id": "u1"}]).to_dict()
    assert json.dumps(said["answer"], sort_keys=True) == json.dumps(here, sort_keys=True)  # text, for NaN != NaN


READER = """
import sys
from pathlib import Path
from feast import FeatureStore
root, stop = sys.argv[1], Path(sys.argv[2])
store = FeatureStore(repo_path=root)
service = store.get_feature_service("ad_decision_v1")
users = [f"u{i}" for i in range(int(sys.argv[3]))]
reads, states, last = 0, set(), False
while not last:
    last = reads > 0 and stop.exists()  # one more turn, which meets the final state
    for user in users:
        read = store.get_online_features(features=service, entity_rows=[{"user_id": user}]).to_dict()
        row = {name: values[0] for name, values in read.items()}
        times = row["hist_timestamp"]
        assert times == sorted(set(times)), (user, times)
        assert {len(row[n]) for n in row if n.startswith("hist_")} == {len(times)}, user
        assert row["hist_revenue"] == [2 * cost for cost in row["hist_cost"]], user
        assert row["age"] is not None
        states.add((user, times[-1]))
        reads += 1
    if reads == len(users):
        print("ready", flush=True)
print(reads, len(states))
"""


@pytest.mark.integration
def test_readers_go_on_while_the_store_is_refreshed(toy, tmp_path):
    users = 300
    log = toy.log(seed=4, users=users)
    root, stop = tmp_path / "features", tmp_path / "stop"
    store.create(root, toy.spec, toy.write(log, tmp_path / "log.parquet"))
    store.materialize(root)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(root), str(stop), str(users)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        everyone = list(log["user_id"].unique())
        for seed in range(4):
            log = grown(toy, log, everyone, seed)
            store.refresh(root, toy.spec, toy.write(log, tmp_path / "log.parquet"))
        stop.touch()
        said, _ = reader.communicate(timeout=120)
    finally:
        reader.kill()
    assert reader.returncode == 0
    reads, states = map(int, said.split())
    assert reads >= 2 * users and states >= 2 * users
