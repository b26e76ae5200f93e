import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitoring.watch.check import Watched
from monitoring.watch.state import State
from monitoring.watch.training_sample import TrainingSample
from mtorl.drift.reference import sample_users
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.lake import Lake
from tests.monitoring.watch.market import DAYS, SPEC, Market

pytestmark = pytest.mark.integration

STATIC = (
    Column(name="age_group", kind="categorical", missing="unknown"),
    Column(name="tenure_days", kind="numeric", missing="unknown"),
)
WITH_STATIC: DatasetSpec = SPEC.replace(static=STATIC)
AGES = ("18-29", "30-44", "45-59", "60+")
Static = dict[str, Any]


def of_user(user: str) -> Static:
    number = zlib.crc32(user.encode())
    return {"age_group": AGES[number % 4], "tenure_days": float(number // 4 % 1_000)}


@cache
def sample() -> TrainingSample:
    rows = DAYS.sample()
    rows = sample_users(pd.concat([rows, pd.DataFrame([of_user(user) for user in rows["user_id"]])], axis=1))
    kinds = {column.name: column.kind for column in (*SPEC.context, *STATIC)}
    return TrainingSample("1", rows, SPEC.context, STATIC, ThresholdGrid.measure(rows, kinds, imitations=100))


class Users(Market):
    @property
    def watched(self) -> Watched:
        return Watched(Lake.open(self.log), WITH_STATIC, lambda _: sample(), page="never")

    def day(self, change: Callable[[Static], Static] = dict, known: float = 1.0, of_unknown: Any = None) -> State:
        """Write a day of decisions and check the log.

        `change` turns a user's true columns into the logged columns. A share `known` of the users has features; the
        others get `of_unknown`.
        """
        self.live(1)
        file = max((self.log / "arrived" / "decisions").rglob("*.parquet"))
        rows = pd.read_parquet(file)
        found = [zlib.crc32(user.encode()) % 97 < known * 97 for user in rows["user_id"]]
        users = (change(of_user(user)) if has else of_unknown for user, has in zip(rows["user_id"], found, strict=True))
        rows.assign(static=list(map(json.dumps, users)), features_found=found).to_parquet(file)
        return self.check()


@pytest.fixture
def market(tmp_path: Path) -> Users:
    made = Users(tmp_path)
    for _ in range(2):
        state = made.day()
        assert not state.alarms() and state.groups["context"].not_judged is None
    for column in STATIC:
        stream = state.streams[f"context/{column.name}"]
        assert stream.value is not None and stream.expected is not None and 0.0 < stream.value < stream.expected
        assert len(stream.past) == 2
    return made


def test_a_changed_user_population_is_a_ticket(market: Users) -> None:
    states = [market.day(lambda user: user | {"age_group": "60+"}).model_copy(deep=True) for _ in range(2)]
    first, second = states
    assert not first.alarms()
    assert second.alarms().keys() == {"context/age_group"}
    assert second.alarms()["context/age_group"].kind == "drift"
    assert second.retrain is not None and "age_group" in second.retrain.reason


def test_a_column_missing_from_the_store_is_found_at_once(market: Users) -> None:
    state = market.day(lambda user: {**user, "tenure_days": None})
    assert state.alarms().keys() == {"context/tenure_days"}
    assert state.alarms()["context/tenure_days"].kind == "data_quality"
    assert not market.day().alarms(), "it has recovered"


@pytest.mark.parametrize(("known", "judged"), [(0.5, 3), (0.0, 2)], ids=["newcomers", "nobody"])
def test_users_missing_from_the_store_are_no_drift(known: float, judged: int, market: Users) -> None:
    state = market.day(known=known, of_unknown={"age_group": None, "tenure_days": None} if known else {})
    assert state.groups["context"].not_judged is None and not state.alarms()
    assert len(state.streams["context/device"].past) == 3
    assert len(state.streams["context/age_group"].past) == judged
