"""Tests that SQLite and Redis hold the same history after any writes in any order."""

import math
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.messages import OTHER_STORE
from features.online.history import History, HistoryError
from features.online.open_history import forget_online, open_history
from mtorl.log.columns import WindowError
from mtorl.log.dataset import OUTCOMES, Column
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.messages import NOT_PACKED
from mtorl.window.packed import DECISION, EVENTS, pack, unpack
from mtorl.window.window import history_types
from tests.features.online_histories import (
    SPEC,
    START,
    OnlineStore,
    PlainHistory,
    Touchpoint,
    append,
    equal_lists,
    hear,
    seconds_after_start,
    touchpoint,
)
from tests.features.online_stores import STORES, apply_history, write_settings
from tests.messages import raises

numbers = st.floats(allow_nan=False, allow_infinity=False)
outcomes = st.dictionaries(st.sampled_from(OUTCOMES), numbers, max_size=4)
whens = st.sampled_from([0, 0.000001, 0.5, 1, 2, 3, 86_400, 1e6, 1e6 + 0.000001])
printable = st.characters(exclude_categories=("C", "Z"))
others = dict(
    hour=st.none() | numbers,
    rank=st.none() | numbers,
    order=st.none() | st.text(printable, max_size=200),
    device=st.text(printable, min_size=1, max_size=3),
)
touchpoint_values = st.builds(touchpoint, whens, st.sampled_from(SPEC.channels), outcomes, **others)
unsure = st.dictionaries(st.sampled_from(OUTCOMES), numbers | st.none(), max_size=4)  # a log may contain nulls
logged = st.builds(touchpoint, whens, st.sampled_from(SPEC.channels), unsure, **others)
operations = st.lists(
    st.tuples(st.just("append"), touchpoint_values)
    | st.tuples(st.just("hear"), touchpoint_values, st.sampled_from(OUTCOMES), numbers, whens)
    | st.tuples(st.just("merge"), st.lists(logged, min_size=1, max_size=5, unique_by=lambda t: t.timestamp)),
    min_size=1,
    max_size=25,
)


def test_a_history_keeps_the_further_outcomes_that_windows_contain(tmp_path: Path) -> None:
    further = tuple(Column(name=name, kind="numeric", missing="zero") for name in ("profit", "seconds"))
    spec = SPEC.replace(outcomes=further, reward=SPEC.reward.replace(gain={"profit": 2.0}))
    write_settings(tmp_path, "sqlite")
    apply_history(tmp_path, spec)
    with open_history(tmp_path, spec) as history:
        seen = touchpoint(0, "search", {"profit": -1.5, "seconds": 20.0})
        append(history, "u", seen)
        hear(history, "u", seen.event("profit", -2.5, event="another"))
        (value,) = history.store.read(["u"])
    assert value and unpack(value)["hist_profit"] == [-4.0]
    columns = history_types(spec)
    assert "hist_profit" in columns and "hist_seconds" not in columns


@pytest.mark.parametrize("kind", STORES)
@given(operations=operations)
def test_any_writes_in_any_order_equal_a_sorted_list(
    kind: str, stores: dict[str, OnlineStore], user_ids: Iterator[str], operations: list[Any]
) -> None:
    store, plain, user = stores[kind], PlainHistory(SPEC.window), next(user_ids)
    for name, *arguments in operations:
        if name == "append":
            assert append(store.history, user, *arguments) == plain.append(*arguments)
        elif name == "merge":
            log = PlainHistory(SPEC.window)
            log.merge(*arguments)
            store.history.merge(log.rows(user))
            plain.merge(log.touchpoints)
        else:
            seen, heard, value, later = arguments
            event = seen.event(heard, value, seen.timestamp + timedelta(seconds=later), f"{heard}-{later}")
            assert hear(store.history, user, event) == plain.hear(event)
    found = store.read(user)
    assert equal_lists(found, plain.lists()), (found, plain.lists())
    if plain.touchpoints:
        newest = plain.touchpoints[-1].timestamp
        assert store.event_time(user) == (newest.replace(microsecond=0) if kind == "sqlite" else newest)


def test_a_shorter_window_applies_from_the_next_touchpoint(store: OnlineStore, user: str) -> None:
    for s in (1, 2, 3, 4):
        append(store.history, user, touchpoint(s))
    with open_history(store.repo, SPEC.replace(window=2)) as shorter:
        assert append(shorter, user, touchpoint(2.5)) and seconds_after_start(store.read(user)) == [3, 4]
        assert append(shorter, user, touchpoint(3.5)) and seconds_after_start(store.read(user)) == [3.5, 4]


@pytest.mark.parametrize("timed", [(), ("conversion", "revenue")])
def test_a_packed_history_is_unpacked_bit_for_bit(timed: tuple[str, ...]) -> None:
    spec = SPEC.replace(timed=timed, window=20)
    strange = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, 1 / 3]
    for length in (0, 1, 20):
        history = {
            name: [strange[(i + j) % 7] if kind == "float64" else f'ä"\n{i}\0' for i in range(length)]
            for j, (name, kind) in enumerate(history_types(spec).items())
        }
        history["hist_timestamp"] = [1767268800000000.0 + 3_600_000_001 * i for i in range(length)]
        assert repr(unpack(pack(history))) == repr(history)
    for broken in (b"", b"rubbish", pack(history)[1:], b"\x02" + pack(history)[1:], pack(history)[:-9]):
        with raises(WindowError, NOT_PACKED):
            unpack(broken)


def test_a_default_window_takes_less_than_a_kilobyte() -> None:
    simulator = Simulator(SimulatorConfig(users=30, seed=1))
    log, types = simulator.log(), history_types(simulator.spec)
    sizes = []
    for _, rows in log.groupby("user_id"):
        last = rows.tail(simulator.spec.window)
        lists = {name: last[name.removeprefix("hist_")].tolist() for name in types if name != "hist_timestamp"}
        times = [float(time.value // 1000) for time in last["timestamp"].astype("datetime64[ns, UTC]")]
        feeds = {DECISION: [f"{i * 0x9E3779B1 % 2**32:08x}" for i in range(len(last))]}
        feeds[EVENTS] = [decision[::-1] for decision in feeds[DECISION]]
        sizes.append((len(last), len(pack({"hist_timestamp": times, **lists, **feeds}))))
    assert max(size for _, size in sizes) <= 800
    assert all(size <= 120 + 34 * touchpoints for touchpoints, size in sizes), sizes


def test_a_log_adds_to_a_history_and_takes_nothing_back(store: OnlineStore, user: str) -> None:
    bought_at = START + timedelta(seconds=1.5)
    for second in (0, 1, 2):
        append(store.history, user, touchpoint(second))
    hear(store.history, user, touchpoint(1).event("conversion", 1.0, bought_at))
    hear(store.history, user, touchpoint(1).event("cost", 0.5, event="a further one"))
    hear(store.history, user, touchpoint(2).event("click", 1.0))
    log = PlainHistory(SPEC.window)
    for second in (0, 1, 3):
        log.merge([touchpoint(second, outcomes={"click": 1.0, "cost": 0.4} if second == 1 else {})])
    for changed in (1, 0):  # the second merge changes nothing
        assert store.history.merge(log.rows(user)) == changed
        found = store.read(user)
        assert found is not None and seconds_after_start(found) == [0, 1, 2, 3]
        assert (found["hist_click"], found["hist_conversion"]) == ([0, 1, 1, 0], [0, 1, 0, 0])
        assert found["hist_cost"] == [0, 0.4, 0, 0], "the log's cost wins, but not its missing conversion"
        assert found["hist_conversion_time"][1] == 1e6 * bought_at.timestamp(), "the conversion keeps its time"
    assert append(store.history, user, touchpoint(4))
    assert seconds_after_start(store.read(user)) == [0, 1, 2, 3, 4][-SPEC.window :]


# ---- values that can't be written


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (touchpoint(0, "radio"), "channel: 'radio' is not one of search"),
        (touchpoint(0, device=None), "device is missing"),
        *((touchpoint(0, hour=hour), "hour is") for hour in ("nine", [9], 10**400)),
        (touchpoint(0, outcomes={"view": 1}), "unknown view; known: click"),
        (touchpoint(0, outcomes={"click": math.nan}), "click is nan"),
    ],
)
def test_an_invalid_touchpoint_is_refused(store: OnlineStore, user: str, wrong: Touchpoint, message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        append(store.history, user, wrong)
    assert store.read(user) is None


def test_an_invalid_value_is_replaced(store: OnlineStore, user: str) -> None:
    store.store_value(user, b"rubbish")
    assert append(store.history, user, touchpoint(6)) and seconds_after_start(store.read(user)) == [6]
    store.store_value(other := f"{user}, too", b"rubbish")
    log = PlainHistory(SPEC.window)
    log.merge([touchpoint(5)])
    assert store.history.merge(log.rows(other)) == 1 and seconds_after_start(store.read(other)) == [5]


def test_a_new_column_is_unknown_for_earlier_touchpoints(store: OnlineStore, user: str) -> None:
    before = SPEC.replace(context=tuple(column for column in SPEC.context if column.name != "rank"))
    append(History(before, store.history.store), user, touchpoint(1))
    assert append(store.history, user, touchpoint(2))
    found = store.read(user)
    assert found is not None and math.isnan(found["hist_rank"][0]) and found["hist_rank"][1] == 1.0


def test_another_data_set_is_refused(store: OnlineStore) -> None:
    with raises(HistoryError, OTHER_STORE, dataset="toy", columns=["hist_rank"]):
        open_history(store.repo, SPEC.replace(context=tuple(c for c in SPEC.context if c.name != "rank")))


# ---- Redis only


def test_a_hash_expires_only_if_configured_in_feast(stores: dict[str, OnlineStore], tmp_path: Path, user: str) -> None:
    import redis

    port = stores["redis"].port
    client = redis.Redis(port=port)
    append(stores["redis"].history, user, touchpoint(0))
    assert [client.ttl(key) for key in client.keys(f"*{user}mtorl")] == [-1]
    write_settings(tmp_path, "redis", port, key_ttl_seconds=500)
    apply_history(tmp_path, SPEC)
    with open_history(tmp_path, SPEC) as history:
        append(history, f"{user}, again", touchpoint(0))
    assert [0 < client.ttl(key) <= 500 for key in client.keys(f"*{user}, againmtorl")] == [True]


# ---- concurrent writers


def test_a_batch_job_loses_no_touchpoint_appended_meanwhile(store: OnlineStore, user_ids: Iterator[str]) -> None:
    users = [next(user_ids) for _ in range(450)]  # several batches, the last one not full
    for user in users:
        append(store.history, user, touchpoint(1))
    log = PlainHistory(SPEC.window)
    for second in (1, 2):
        log.merge([touchpoint(second)])
    rows = log.rows(*users)
    with open_history(store.repo, SPEC) as history, open_history(store.repo, SPEC) as batch:
        job = threading.Thread(target=lambda: batch.merge(rows))
        job.start()
        for user in users:
            append(history, user, touchpoint(3))
        job.join()
    assert [seconds_after_start(store.read(user)) for user in users] == [[1, 2, 3]] * len(users)


def test_threads_share_a_history(store: OnlineStore, user: str) -> None:
    with open_history(store.repo, SPEC.replace(window=1000)) as history:
        work = [
            threading.Thread(target=lambda i=i: [append(history, user, touchpoint(4 * s + i)) for s in range(30)])
            for i in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert seconds_after_start(store.read(user)) == list(range(120))


# ---- removed users, who may return


def test_a_removed_user_is_gone_and_others_stay(store: OnlineStore, user_ids: Iterator[str]) -> None:
    gone, stays, never = next(user_ids), next(user_ids), next(user_ids)
    for user in (gone, stays):
        append(store.history, user, touchpoint(1))
    before = store.read(stays)
    assert forget_online(store.repo, {gone, never}) == 1
    assert forget_online(store.repo, {gone, never}) == 0
    assert store.read(gone) is None and equal_lists(store.read(stays), before)
    assert append(store.history, gone, touchpoint(2))


def test_a_removed_user_is_in_no_file_of_the_store(store: OnlineStore, user: str) -> None:
    """SQLite keeps deleted rows in its file unless secure deletion is on."""
    name = f"{user} by name"
    append(store.history, name, touchpoint(1))
    forget_online(store.repo, {name})
    files = [path for path in store.repo.rglob("*") if path.is_file()]
    assert files and all(name.encode() not in path.read_bytes() for path in files)


def test_an_unreachable_or_invalid_store_is_named(store: OnlineStore, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(store.repo / "feature_store.yaml", repo)
    settings = repo / "feature_store.yaml"
    if store.kind == "redis":
        settings.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", settings.read_text()))
        with pytest.raises(HistoryError, match=r"127\.0\.0\.1:1: "):
            forget_online(repo, {"u"})
    else:
        (repo / "online.db").write_text("no database, but long enough to be taken for one" * 10)
        with pytest.raises(HistoryError, match=r"online\.db: "):
            forget_online(repo, {"u"})
