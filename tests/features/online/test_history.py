"""Histories in the online store: whatever is written in whatever order, the same in SQLite and in Redis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from features.online.history import HistoryError, Touchpoint
from features.online.open_history import open_history
from mtorl.log.dataset import OUTCOMES, Column
from mtorl.window.window import HISTORY, history_types
from tests.features.online_histories import (
    SPEC,
    START,
    OnlineStore,
    PlainHistory,
    equal_lists,
    seconds_after_start,
    touchpoint,
)
from tests.features.online_stores import STORES, apply_history, write_settings

numbers = st.floats(allow_nan=False, allow_infinity=False)
outcomes = st.dictionaries(st.sampled_from(OUTCOMES), numbers, max_size=4)
whens = st.sampled_from([0, 0.000001, 0.5, 1, 2, 3, 86_400, 1e6, 1e6 + 0.000001])
others = dict(
    hour=st.none() | numbers,
    rank=st.none() | numbers,
    order=st.none() | st.text(max_size=200).filter(lambda text: text.isprintable()),
    device=st.text(min_size=1, max_size=3).filter(lambda text: text.isprintable()),
)
touchpoint_values = st.builds(touchpoint, whens, st.sampled_from(SPEC.channels), outcomes, **others)
unsure = st.dictionaries(st.sampled_from(OUTCOMES), numbers | st.none(), max_size=4)  # a log may have nulls
logged = st.builds(touchpoint, whens, st.sampled_from(SPEC.channels), unsure, **others)
operations = st.lists(
    st.tuples(st.just("append"), touchpoint_values)
    | st.tuples(st.just("patch"), whens, outcomes, whens)
    | st.tuples(st.just("merge"), st.lists(logged, min_size=1, max_size=5, unique_by=lambda t: t.timestamp)),
    min_size=1,
    max_size=25,
)


def test_of_further_outcomes_a_history_keeps_those_that_windows_carry(tmp_path: Path) -> None:
    further = tuple(Column(name=name, kind="numeric", missing="zero") for name in ("profit", "seconds"))
    spec = SPEC.replace(outcomes=further, reward=SPEC.reward.replace(gain={"profit": 2.0}))
    write_settings(tmp_path, "sqlite")
    apply_history(tmp_path, spec)
    with open_history(tmp_path, spec) as history:
        history.append("u", touchpoint(0, "search", {"profit": -1.5, "seconds": 20.0}))
        history.patch("u", START, {"profit": -2.5, "seconds": 30.0})
        with pytest.raises(
            HistoryError, match=r"unknown view; known: click, conversion, revenue, cost, profit, seconds"
        ):
            history.patch("u", START, {"view": 1.0})
    columns = history_types(spec)
    assert "hist_profit" in columns and "hist_seconds" not in columns


@pytest.mark.parametrize("kind", STORES)
@given(operations=operations)
def test_any_writes_in_any_order_leave_what_a_sorted_list_would_hold(
    kind: str, stores: dict[str, OnlineStore], user_ids: Iterator[str], operations: list[Any]
) -> None:
    store, plain, user = stores[kind], PlainHistory(SPEC.window), next(user_ids)
    for name, *arguments in operations:
        if name == "append":
            assert store.history.append(user, *arguments) == plain.append(*arguments)
        elif name == "merge":
            log = PlainHistory(SPEC.window)
            log.merge(*arguments)
            store.history.merge(log.rows(user))
            plain.merge(log.touchpoints)
        else:
            seconds, values, later = arguments
            when = START + timedelta(seconds=seconds)
            known = {"conversion": when + timedelta(seconds=later)}
            assert store.history.patch(user, when, values, known) == plain.patch(when, values, known)
    found = store.read(user)
    assert equal_lists(found, plain.lists()), (found, plain.lists())
    if plain.touchpoints:
        newest = plain.touchpoints[-1].timestamp
        assert store.event_time(user) == (newest.replace(microsecond=0) if kind == "sqlite" else newest)


def test_a_history_that_feast_has_written_can_be_appended_to(store: OnlineStore, user: str) -> None:
    plain = PlainHistory(SPEC.window)
    for s in (1, 2, 3, 4):
        plain.append(touchpoint(s, outcomes={"cost": float(s)}))
    snapshot = plain.lists()
    assert snapshot is not None
    store.snapshot(user, snapshot, plain.touchpoints[-1].timestamp)
    for new in (touchpoint(5, "video", order=None, hour=None), touchpoint(2.5)):
        assert store.history.append(user, new) == plain.append(new)
    assert store.history.patch(user, START + timedelta(seconds=3), {"click": 1})
    plain.patch(START + timedelta(seconds=3), {"click": 1}, {})
    assert equal_lists(store.read(user), plain.lists())


def test_a_shorter_window_of_the_data_set_takes_hold_with_the_next_touchpoint(store: OnlineStore, user: str) -> None:
    for s in (1, 2, 3, 4):
        store.history.append(user, touchpoint(s))
    with open_history(store.repo, SPEC.replace(window=2)) as shorter:
        assert not shorter.append(user, touchpoint(2.5))
        assert shorter.append(user, touchpoint(3.5)) and seconds_after_start(store.read(user)) == [3.5, 4]


def test_redis_holds_the_bytes_that_feast_would_have_written(
    stores: dict[str, OnlineStore], user: str, user_ids: Iterator[str]
) -> None:
    import redis

    store, twin = stores["redis"], next(user_ids)
    for s in range(9):
        store.history.append(
            user, touchpoint(s, SPEC.channels[s % 4], {"cost": s / 7}, order="ä" * [0, 70, 9000][s % 3], hour=None)
        )
    lists = store.read(user)
    assert lists is not None
    store.snapshot(twin, lists, START + timedelta(seconds=8))
    client = redis.Redis(port=store.port)
    first, second = (client.hgetall(key) for name in (user, twin) for key in client.keys(f"*{name}mtorl"))
    assert first == second and len(first) == len(history_types(SPEC)) + 1
    assert Value.FromString(first[_mmh3(f"{HISTORY}:hist_channel")]).string_list_val.val[0] == SPEC.channels[1]


def test_a_log_adds_to_a_history_and_takes_nothing_back(store: OnlineStore, user: str) -> None:
    for second in (0, 1, 2):
        store.history.append(user, touchpoint(second))
    bought_at = START + timedelta(seconds=1.5)
    store.history.patch(user, START + timedelta(seconds=1), {"conversion": 1, "cost": 0.5}, {"conversion": bought_at})
    store.history.patch(user, START + timedelta(seconds=2), {"click": 1})
    log = PlainHistory(SPEC.window)
    for second in (0, 1, 3):
        log.append(touchpoint(second, outcomes={"click": 1.0, "cost": 0.4} if second == 1 else {}))
    for changed in (1, 0):  # a second time there is nothing new
        assert store.history.merge(log.rows(user)) == changed
        found = store.read(user)
        assert found is not None and seconds_after_start(found) == [0, 1, 2, 3]
        assert (found["hist_click"], found["hist_conversion"]) == ([0, 1, 1, 0], [0, 1, 0, 0])
        assert found["hist_cost"] == [0, 0.4, 0, 0], "the log knows the cost better, but not the conversion"
        assert found["hist_conversion_time"][1] == 1e6 * bought_at.timestamp(), "nor when it became known"
    assert store.history.append(user, touchpoint(4))
    assert seconds_after_start(store.read(user)) == [0, 1, 2, 3, 4][-SPEC.window :]


# ---- what can't be written


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (touchpoint(0, "radio"), "channel: 'radio' is not one of search"),
        (touchpoint(0, device=None), "device is missing"),
        (touchpoint(0, outcomes={"view": 1}), "unknown view; known: click"),
        (touchpoint(0, outcomes={"click": math.nan}), "click is nan"),
        (replace(touchpoint(0), timestamp=datetime(2026, 1, 1)), "time zone"),
    ],
)
def test_a_touchpoint_that_does_not_fit_is_refused(
    store: OnlineStore, user: str, wrong: Touchpoint, message: str
) -> None:
    with pytest.raises(HistoryError, match=message):
        store.history.append(user, wrong)
    assert store.read(user) is None


def test_an_outcome_that_does_not_fit_is_refused(store: OnlineStore, user: str) -> None:
    store.history.append(user, touchpoint(0))
    before = store.read(user)
    for values in ({"order": 1.0}, {"cost": math.inf}, {"conversion": 1.0}):  # nobody says since when it is known
        with pytest.raises(HistoryError, match="outcomes"):
            store.history.patch(user, START, values)
    assert equal_lists(store.read(user), before)


@pytest.mark.parametrize("broken", ["hist_cost", "hist_order"])
def test_a_history_with_columns_of_different_lengths_is_left_alone(store: OnlineStore, user: str, broken: str) -> None:
    plain = PlainHistory(SPEC.window)
    for s in (1, 2):
        plain.append(touchpoint(s))
    lists = plain.lists()
    assert lists is not None
    for length in (0, 1, 3):
        who = f"{user} {length}"
        store.snapshot(who, {**lists, broken: (lists[broken] * 2)[:length]}, START)
        before = store.read(who)
        with pytest.raises(HistoryError, match=f"{who}.*different lengths; materialise"):
            store.history.append(who, touchpoint(3))
        assert equal_lists(store.read(who), before)
        log = PlainHistory(SPEC.window)
        log.append(touchpoint(5))
        store.history.merge(log.rows(who))  # a batch job puts it right
        found = store.read(who)
        # A column that is not there at all is one that the data set did not have before.
        assert seconds_after_start(found) == ([1, 2, 5] if length == 0 else [5]) and found is not None
        null = 0.0 if broken == "hist_cost" else ""
        assert length or found[broken][:2] == [null, null]
        assert store.history.append(who, touchpoint(6))


def test_another_data_set_is_refused(store: OnlineStore) -> None:
    with pytest.raises(HistoryError, match="is not that of data set 'toy': hist_rank; create it again"):
        open_history(store.repo, SPEC.replace(context=tuple(c for c in SPEC.context if c.name != "rank")))


# ---- Redis alone


def test_a_hash_expires_only_where_feast_is_told_so(stores: dict[str, OnlineStore], tmp_path: Path, user: str) -> None:
    import redis

    port = stores["redis"].port
    client = redis.Redis(port=port)
    stores["redis"].history.append(user, touchpoint(0))
    assert [client.ttl(key) for key in client.keys(f"*{user}mtorl")] == [-1]
    write_settings(tmp_path, "redis", port, key_ttl_seconds=500)
    apply_history(tmp_path, SPEC)
    with open_history(tmp_path, SPEC) as history:
        history.append(f"{user}, again", touchpoint(0))
    assert [0 < client.ttl(key) <= 500 for key in client.keys(f"*{user}, againmtorl")] == [True]
