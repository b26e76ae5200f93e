"""A month of a market: silence while nothing is wrong, an alarm while something is, and its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.monitoring_runs.days import START, Shift
from monitoring.watch.state import State
from tests.monitoring.watch.market import DAYS, Market, dearer, fewer_clicks, kinds

pytestmark = pytest.mark.long
HEALTHY = 16  # days before a shift


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log and state of the days before a shift."""
    folder = tmp_path_factory.mktemp("healthy")
    market = Market(folder)
    market.live(HEALTHY)
    assert not market.check().alarms()
    return folder


@pytest.fixture
def market(healthy: Path, tmp_path: Path) -> Market:
    shutil.copytree(healthy, tmp_path / "market")
    made = Market(tmp_path / "market")
    made.next = HEALTHY
    return made


def test_nothing_rings_in_a_quiet_month(market: Market) -> None:
    """Click rates and devices differ at weekends, each day has a factor of its own."""
    for state in market.nights(30 - HEALTHY):
        assert not state.alarms() and state.retrain is None


@pytest.mark.parametrize(
    ("users", "shift", "stream", "what"),
    [
        (4_000, fewer_clicks, "outcomes/gain_per_decision", " clicks lost"),
        (500, dearer, "outcomes/cost_per_exposure", " EUR lost"),
    ],
    ids=["click-rate", "cost"],
)
def test_harm_is_told_soon_and_while_it_lasts(users: int, shift: Shift, stream: str, what: str, tmp_path: Path) -> None:
    market = Market(tmp_path, replace(DAYS, users_a_day=users))
    market.live(HEALTHY)
    days = market.nights(5, shift)
    first = next(i for i, state in enumerate(days) if stream in state.alarms())
    assert first < (2 if shift is dearer else 4)
    for state in days[first:]:
        alarm = state.alarms()[stream]
        assert alarm.kind == "harm" and alarm.since == START + timedelta(days=HEALTHY), "since the first day of it"
        assert what in alarm.text and "expected" in alarm.text
    loss = days[-1].streams[stream].loss
    assert loss is not None and 0.0 < loss < 1e4
    after = market.nights(12)
    ends = [not state.alarms() for state in after]
    assert ends[-1] and ends == sorted(ends), "it ends, and does not come again"


def test_good_news_wakes_nobody(market: Market) -> None:
    days = market.nights(4, lambda rows, rng: rows.assign(rate=rows["rate"] * 1.3, cost=rows["cost"] * 0.8))
    assert all("harm" not in kinds(state) for state in days)


def gone_at_noon(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The money of the day is spent by then."""
    refused = rows["expose"] & (rows["hour"] >= 12)
    return rows.assign(exhausted=refused, expose=rows["expose"] & ~refused)


def test_a_budget_that_is_gone_is_a_ticket(tmp_path: Path) -> None:
    """Half of the clicks are gone, and nobody is woken; but of what is wrong besides that, they are."""
    market = Market(tmp_path, replace(DAYS, users_a_day=2_000))
    market.live(HEALTHY)
    market.check()
    also = Market(tmp_path, market.days)
    also.folder, also.log, also.next = tmp_path / "also", tmp_path / "also-log", HEALTHY
    shutil.copytree(market.folder, also.folder)
    shutil.copytree(market.log, also.log)
    state = market.nights(5, gone_at_noon)[-1]
    assert kinds(state) == {"drift"}
    assert {"decisions/incumbent/budget_exhausted_ratio", "outcomes/click_per_decision"} <= state.alarms().keys()
    gain, clicks = state.streams["outcomes/gain_per_decision"], state.streams["outcomes/click_per_decision"]
    assert gain.value is not None and gain.low is not None and gain.value > gain.low
    assert clicks.value is not None and clicks.expected is not None and clicks.value < 0.6 * clicks.expected
    state = also.nights(5, lambda rows, rng: gone_at_noon(fewer_clicks(rows, rng), rng))[-1]
    assert state.streams["outcomes/gain_per_decision"].alarm is not None and "harm" in kinds(state)


def in_column(column: str, change: Callable[[pd.Series], pd.Series]) -> Shift:
    return lambda rows, rng: rows.assign(**{column: change(rows[column])})


TO_STORY = in_column("placement", lambda values: values.mask(values == "feed", "story"))


def test_a_column_that_moves_is_a_ticket_and_a_reason_to_train(market: Market) -> None:
    days = market.nights(3, TO_STORY)
    assert [bool(state.alarms()) for state in days] == [False, True, True]
    assert days[-1].alarms().keys() == {"context/placement"} and kinds(days[-1]) == {"drift"}
    assert days[-1].retrain is not None and "placement" in days[-1].retrain.reason
    assert days[-1].retrain.since == days[1].judged_until
    after = market.nights(4)
    assert not after[-1].alarms(), "it has moved back"
    assert after[-1].retrain == days[-1].retrain, "whoever trains takes it back, nobody else"


def test_a_lasting_shift_does_not_become_usual(market: Market) -> None:
    """Also of a column that never was right: its first days are no example of a healthy week."""
    days = market.nights(14, TO_STORY)
    assert ["context/placement" in state.alarms() for state in days] == [False] + [True] * 13


def test_a_column_that_was_wrong_from_the_first_day(tmp_path: Path) -> None:
    days = Market(tmp_path).nights(16, in_column("hour", lambda values: values / 24))
    alarms = ["context/hour" in state.alarms() for state in days]
    assert alarms == [False] * 2 + [True] * 14


def test_a_null_column_is_found_by_the_look_at_the_last_hours(market: Market) -> None:
    """At three in the afternoon of its first day."""
    market.live(1, in_column("placement", lambda values: values.where(values.isna())))
    state = market.check(market.night - pd.Timedelta(hours=11))
    assert state.judged_until == market.night - pd.Timedelta(hours=26), "the day is not over"
    (alarm,) = state.alarms().values()
    assert alarm.kind == "data_quality" and "placement" in alarm.text
    written = pd.read_parquet(max(market.log.rglob("decisions.parquet")))["context"]
    texts = [json.loads(text)["placement"] for text in written]
    assert set(texts) == {None}


def test_what_only_one_day_does_is_no_alarm(market: Market) -> None:
    def festival(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        return rows.assign(device="mobile")

    first, *others = [*market.nights(1, festival), *market.nights(3)]
    assert isinstance(first, State) and not any(state.alarms() for state in (first, *others))
