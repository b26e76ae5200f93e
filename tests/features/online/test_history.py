"""Windows in the online store: whatever is written in whatever order by whomever, the same in SQLite and in Redis."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _mmh3, get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from features.feature_repo.names import HISTORY, history_types
from features.online.history import History, HistoryError, Touchpoint
from features.online.open_history import open_history
from mtorl.log.dataset import OUTCOMES, Column, DatasetSpec, RewardSpec
from tests.features.online_stores import STORES, apply_history, write_settings
from tests.redis_server import redis_server

SPEC = DatasetSpec(
    name="toy",
    description="Short journeys",
    adapter="touchpoints",
    channels=("search", "social", "video", "display " * 20 + "ads"),
    context=(
        Column(name="hour", kind="numeric", missing="unknown"),
        Column(name="rank", kind="numeric", missing="zero"),
        Column(name="order", kind="categorical", missing="unknown"),
        Column(name="device", kind="categorical"),
    ),
    static=(),
    segment=None,
    reward=RewardSpec(gain="click"),
    propensity="logged",
    currency="EUR",
    window=4,
)
ROOT = Path(__file__).parents[3]
EPOCH, START = datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 12, tzinfo=UTC)
_users = (f"user {i}" for i in itertools.count())

Lists = dict[str, list[Any]]


@dataclass
class Stage:
    """One of the stores."""

    kind: str
    repo: Path
    store: FeatureStore
    port: int
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = open_history(self.repo, SPEC)

    def read(self, user: str) -> Lists | None:
        """As any reader of Feast sees it."""
        features = [f"{HISTORY}:{name}" for name in history_types(SPEC)]
        found = self.store.get_online_features(features=features, entity_rows=[{"user_id": user}]).to_dict()
        assert found.pop("user_id") == [user]
        return None if found["hist_channel"][0] is None else {name: values[0] for name, values in found.items()}

    def event_time(self, user: str) -> datetime | None:
        """The view's event time; SQLite keeps whole seconds."""
        online = get_online_store_from_config(self.store.config.online_store)
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
        ((found, _),) = online.online_read(self.store.config, self.store.get_feature_view(HISTORY), [key])
        return found

    def snapshot(self, user: str, lists: Lists, event_time: datetime) -> None:
        """What Feast's materialisation writes."""
        row = {"user_id": user, "event_timestamp": event_time, "created_timestamp": event_time}
        arrays = {name: np.array(values) for name, values in lists.items()}  # of a list's NaN, Feast would make 0
        self.store.write_to_online_store(HISTORY, pd.DataFrame([{**row, **arrays}]))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    folder = tmp_path_factory.mktemp("online")
    with redis_server(folder) as port:
        made = {}
        for kind in STORES:
            write_settings(folder / kind, kind, port)
            made[kind] = Stage(kind, folder / kind, apply_history(folder / kind, SPEC), port)
        yield made
        for stage in made.values():
            stage.history.close()


@pytest.fixture(params=STORES)
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    return stages[request.param]


@pytest.fixture
def user() -> str:
    return next(_users)


def touchpoint(
    second: float, channel: str = "search", outcomes: dict[str, float] | None = None, **context: Any
) -> Touchpoint:
    context = {"hour": 9.0, "rank": 1.0, "order": "a", "device": "phone", **context}
    return Touchpoint(START + timedelta(seconds=second), channel, context, outcomes or {})


def seconds(lists: Lists | None) -> list[float]:
    return [t / 1e6 - START.timestamp() for t in (lists or {}).get("hist_timestamp", [])]


# ---- the obvious history


class Plain:
    """A list of touchpoints, kept sorted."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.touchpoints: list[Touchpoint] = []

    def append(self, new: Touchpoint) -> bool:
        if new.timestamp in [t.timestamp for t in self.touchpoints]:
            return False
        self.touchpoints = sorted([*self.touchpoints, new], key=lambda t: t.timestamp)[-self.n :]
        return new in self.touchpoints

    def patch(self, timestamp: datetime, outcomes: dict[str, float]) -> bool:
        found = timestamp in [t.timestamp for t in self.touchpoints]
        self.touchpoints = [
            replace(t, outcomes={**t.outcomes, **outcomes}) if t.timestamp == timestamp else t for t in self.touchpoints
        ]
        return found

    def merge(self, told: list[Touchpoint]) -> None:
        touchpoints = {t.timestamp: t for t in self.touchpoints}
        for new in told:
            here = touchpoints.get(new.timestamp)
            outcomes = {name: new.outcomes.get(name, 0.0) for name in OUTCOMES}
            if here and here.channel == new.channel:  # else it is another touchpoint
                unknown = [name for name, value in outcomes.items() if value in (0, None)]
                outcomes |= {name: here.outcomes.get(name, 0.0) for name in unknown}
            touchpoints[new.timestamp] = replace(new, outcomes=outcomes)
        self.touchpoints = sorted(touchpoints.values(), key=lambda t: t.timestamp)[-self.n :]

    def rows(self, user: str) -> pa.Table:
        """As a batch job brings it."""
        lists = self.lists()
        assert lists is not None
        return pa.table({"user_id": [user], **{name: [values] for name, values in lists.items()}})

    def lists(self) -> Lists | None:
        if not self.touchpoints:
            return None
        numeric = {"hour": math.nan, "rank": 0.0}
        return {
            "hist_timestamp": [float((t.timestamp - EPOCH) // timedelta(microseconds=1)) for t in self.touchpoints],
            "hist_channel": [t.channel for t in self.touchpoints],
            **{f"hist_{o}": [_number(t.outcomes.get(o, 0.0)) for t in self.touchpoints] for o in OUTCOMES},
            **{
                f"hist_{name}": [null if t.context[name] is None else t.context[name] for t in self.touchpoints]
                for name, null in numeric.items()
            },
            **{f"hist_{name}": [t.context[name] or "" for t in self.touchpoints] for name in ("order", "device")},
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def same(found: Lists | None, expected: Lists | None) -> bool:
    return repr(found and dict(sorted(found.items()))) == repr(expected and dict(sorted(expected.items())))


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
    | st.tuples(st.just("patch"), whens, outcomes)
    | st.tuples(st.just("merge"), st.lists(logged, min_size=1, max_size=5, unique_by=lambda t: t.timestamp)),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=80, deadline=None)
@given(operations=operations)
def test_any_writes_in_any_order_leave_what_a_sorted_list_would_hold(
    kind: str, stages: dict[str, Stage], operations: list[Any]
) -> None:
    stage, plain, user = stages[kind], Plain(SPEC.window), next(_users)
    for name, *arguments in operations:
        if name == "append":
            assert stage.history.append(user, *arguments) == plain.append(*arguments)
        elif name == "merge":
            log = Plain(SPEC.window)
            log.merge(*arguments)
            stage.history.merge(log.rows(user))
            plain.merge(log.touchpoints)
        else:
            when, values = START + timedelta(seconds=arguments[0]), arguments[1]
            assert stage.history.patch(user, when, values) == plain.patch(when, values)
    found = stage.read(user)
    assert same(found, plain.lists()), (found, plain.lists())
    if plain.touchpoints:
        newest = plain.touchpoints[-1].timestamp
        assert stage.event_time(user) == (newest.replace(microsecond=0) if kind == "sqlite" else newest)


# ---- one property at a time


def test_a_late_touchpoint_lands_in_its_place_and_one_older_than_a_full_window_is_dropped(
    stage: Stage, user: str
) -> None:
    assert [stage.history.append(user, touchpoint(s)) for s in (3, 1, 5, 4)] == [True] * 4
    assert seconds(stage.read(user)) == [1, 3, 4, 5]
    assert not stage.history.append(user, touchpoint(0))
    assert stage.history.append(user, touchpoint(2)) and seconds(stage.read(user)) == [2, 3, 4, 5]


def test_a_touchpoint_that_comes_again_changes_nothing_not_even_a_patched_outcome(stage: Stage, user: str) -> None:
    assert stage.history.append(user, touchpoint(0))
    assert stage.history.patch(user, START, {"click": 1, "cost": 0.25})
    before = stage.read(user)
    assert not stage.history.append(user, touchpoint(0)) and not stage.history.append(user, touchpoint(0, "video"))
    assert same(stage.read(user), before) and before is not None
    assert (before["hist_click"], before["hist_cost"], before["hist_revenue"]) == ([1.0], [0.25], [0.0])


def test_an_outcome_finds_its_touchpoint_to_the_microsecond(stage: Stage, user: str) -> None:
    for s in (1, 1.000001):
        stage.history.append(user, touchpoint(s))
    assert stage.history.patch(user, START + timedelta(seconds=1.000001), {"click": 1})
    assert not stage.history.patch(user, START + timedelta(seconds=1.000002), {"click": 1})
    assert not stage.history.patch(f"{user}, a stranger", START, {"click": 1})
    lists = stage.read(user)
    assert lists is not None and lists["hist_click"] == [0.0, 1.0]
    assert stage.read(f"{user}, a stranger") is None


def test_a_window_that_feast_has_written_goes_on(stage: Stage, user: str) -> None:
    plain = Plain(SPEC.window)
    for s in (1, 2, 3, 4):
        plain.append(touchpoint(s, outcomes={"cost": float(s)}))
    snapshot = plain.lists()
    assert snapshot is not None
    stage.snapshot(user, snapshot, plain.touchpoints[-1].timestamp)
    for new in (touchpoint(5, "video", order=None, hour=None), touchpoint(2.5)):
        assert stage.history.append(user, new) == plain.append(new)
    assert stage.history.patch(user, START + timedelta(seconds=3), {"click": 1})
    plain.patch(START + timedelta(seconds=3), {"click": 1})
    assert same(stage.read(user), plain.lists())


def test_a_shorter_window_takes_hold_with_the_next_touchpoint(stage: Stage, user: str) -> None:
    for s in (1, 2, 3, 4):
        stage.history.append(user, touchpoint(s))
    with open_history(stage.repo, SPEC.replace(window=2)) as shorter:
        assert not shorter.append(user, touchpoint(2.5))
        assert shorter.append(user, touchpoint(3.5)) and seconds(stage.read(user)) == [3.5, 4]


def test_redis_holds_the_bytes_that_feast_would_have_written(stages: dict[str, Stage], user: str) -> None:
    import redis

    stage, twin = stages["redis"], next(_users)
    for s in range(9):
        stage.history.append(
            user, touchpoint(s, SPEC.channels[s % 4], {"cost": s / 7}, order="ä" * [0, 70, 9000][s % 3], hour=None)
        )
    lists = stage.read(user)
    assert lists is not None
    stage.snapshot(twin, lists, START + timedelta(seconds=8))
    client = redis.Redis(port=stage.port)
    first, second = (client.hgetall(key) for name in (user, twin) for key in client.keys(f"*{name}mtorl"))
    assert first == second and len(first) == len(history_types(SPEC)) + 1
    assert Value.FromString(first[_mmh3(f"{HISTORY}:hist_channel")]).string_list_val.val[0] == SPEC.channels[1]


def test_a_log_adds_to_a_window_and_takes_nothing_back(stage: Stage, user: str) -> None:
    for second in (0, 1, 2):
        stage.history.append(user, touchpoint(second))
    stage.history.patch(user, START + timedelta(seconds=1), {"conversion": 1, "cost": 0.5})
    stage.history.patch(user, START + timedelta(seconds=2), {"click": 1})
    log = Plain(SPEC.window)
    for second in (0, 1, 3):
        log.append(touchpoint(second, outcomes={"click": 1.0, "cost": 0.4} if second == 1 else {}))
    for changed in (1, 0):  # a second time there is nothing new
        assert stage.history.merge(log.rows(user)) == changed
        found = stage.read(user)
        assert found is not None and seconds(found) == [0, 1, 2, 3]
        assert (found["hist_click"], found["hist_conversion"]) == ([0, 1, 1, 0], [0, 1, 0, 0])
        assert found["hist_cost"] == [0, 0.4, 0, 0], "the log knows the cost better, but not the conversion"
    assert stage.history.append(user, touchpoint(4))
    assert seconds(stage.read(user)) == [0, 1, 2, 3, 4][-SPEC.window :]


# ---- many writers


def test_a_batch_job_loses_no_touchpoint_that_is_appended_meanwhile(stage: Stage) -> None:
    """Each user has a touchpoint, the job brings a younger one, and an even younger one happens while it writes."""
    users = [next(_users) for _ in range(450)]  # several batches, the last one not full
    for user in users:
        stage.history.append(user, touchpoint(1))
    log = Plain(SPEC.window)
    for second in (1, 2):
        log.append(touchpoint(second))
    rows = pa.concat_tables([log.rows(user) for user in users])
    with open_history(stage.repo, SPEC) as history, open_history(stage.repo, SPEC) as batch:
        job = threading.Thread(target=lambda: batch.merge(rows))
        job.start()
        for user in users:
            history.append(user, touchpoint(3))
        job.join()
    assert [seconds(stage.read(user)) for user in users] == [[1, 2, 3]] * len(users)


def test_threads_share_a_history(stage: Stage, user: str) -> None:
    with open_history(stage.repo, SPEC.replace(window=1000)) as history:
        work = [
            threading.Thread(target=lambda i=i: [history.append(user, touchpoint(4 * s + i)) for s in range(30)])
            for i in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    assert seconds(stage.read(user)) == list(range(120))


@pytest.mark.integration
def test_four_processes_lose_nothing(stage: Stage, user: str, tmp_path: Path) -> None:
    SPEC.replace(window=10_000).save(tmp_path / "dataset.yaml")
    command = [sys.executable, "-m", "tests.features.online_writer", str(stage.repo), str(tmp_path / "dataset.yaml")]
    workers = [
        subprocess.Popen(
            [*command, user, START.isoformat(), str(worker), "300"], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for worker in range(4)
    ]
    assert [worker.communicate(timeout=120)[1] for worker in workers if worker.wait(120)] == []
    lists = stage.read(user)
    assert seconds(lists) == list(range(1200))
    assert lists is not None and lists["hist_click"] == [1.0] * 1200


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
def test_a_touchpoint_that_does_not_fit_is_refused(stage: Stage, user: str, wrong: Touchpoint, message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        stage.history.append(user, wrong)
    assert stage.read(user) is None


def test_an_outcome_that_does_not_fit_is_refused(stage: Stage, user: str) -> None:
    stage.history.append(user, touchpoint(0))
    before = stage.read(user)
    for values in ({"order": 1.0}, {"cost": math.inf}):
        with pytest.raises(HistoryError, match="outcomes"):
            stage.history.patch(user, START, values)
    assert same(stage.read(user), before)


@pytest.mark.parametrize("broken", ["hist_cost", "hist_order"])
def test_a_window_with_columns_of_different_lengths_is_left_alone(stage: Stage, user: str, broken: str) -> None:
    plain = Plain(SPEC.window)
    for s in (1, 2):
        plain.append(touchpoint(s))
    lists = plain.lists()
    assert lists is not None
    for length in (0, 1, 3):
        who = f"{user} {length}"
        stage.snapshot(who, {**lists, broken: (lists[broken] * 2)[:length]}, START)
        before = stage.read(who)
        with pytest.raises(HistoryError, match=f"{who}.*different lengths; materialise"):
            stage.history.append(who, touchpoint(3))
        assert same(stage.read(who), before)
        log = Plain(SPEC.window)
        log.append(touchpoint(5))
        stage.history.merge(log.rows(who))  # a batch job puts it right
        found = stage.read(who)
        # A column that is not there at all is one that the data set did not have before.
        assert seconds(found) == ([1, 2, 5] if length == 0 else [5]) and found is not None
        null = 0.0 if broken == "hist_cost" else ""
        assert length or found[broken][:2] == [null, null]
        assert stage.history.append(who, touchpoint(6))


def test_another_data_set_is_refused(stage: Stage) -> None:
    with pytest.raises(HistoryError, match="is not that of data set 'toy': hist_rank; create it again"):
        open_history(stage.repo, SPEC.replace(context=tuple(c for c in SPEC.context if c.name != "rank")))


def test_another_online_store_is_refused(tmp_path: Path) -> None:
    write_settings(tmp_path, "sqlite")
    apply_history(tmp_path, SPEC)
    write_settings(tmp_path, "remote", path="http://localhost:6566")
    with pytest.raises(HistoryError, match="type 'remote'; use sqlite or redis"):
        open_history(tmp_path, SPEC)


# ---- Redis alone


def test_a_server_that_has_forgotten_the_scripts_learns_them_again(stages: dict[str, Stage], user: str) -> None:
    import redis

    redis.Redis(port=stages["redis"].port).script_flush()
    assert stages["redis"].history.append(user, touchpoint(0))


def test_a_hash_expires_only_where_feast_is_told_so(stages: dict[str, Stage], tmp_path: Path, user: str) -> None:
    import redis

    port = stages["redis"].port
    client = redis.Redis(port=port)
    stages["redis"].history.append(user, touchpoint(0))
    assert [client.ttl(key) for key in client.keys(f"*{user}mtorl")] == [-1]
    write_settings(tmp_path, "redis", port, key_ttl_seconds=500)
    apply_history(tmp_path, SPEC)
    with open_history(tmp_path, SPEC) as history:
        history.append(f"{user}, again", touchpoint(0))
    assert [0 < client.ttl(key) <= 500 for key in client.keys(f"*{user}, againmtorl")] == [True]
