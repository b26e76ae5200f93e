"""A month of a market: silence while nothing is wrong, an alarm while something is, and its end."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.monitoring_runs.days import START, Shift
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


def to_story(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return rows.assign(placement=rows["placement"].mask(rows["placement"] == "feed", "story"))


def test_a_column_that_moves_is_a_ticket_and_a_reason_to_train(market: Market) -> None:
    days = market.nights(4, to_story)
    assert ["context/placement" in state.alarms() for state in days] == [False, True, True, True]
    assert days[-1].alarms().keys() == {"context/placement"} and kinds(days[-1]) == {"drift"}
    assert days[-1].retrain is not None and "placement" in days[-1].retrain.reason
    assert days[-1].retrain.since == days[1].judged_until
    after = market.nights(4)
    assert not after[-1].alarms(), "it has moved back"
    assert after[-1].retrain == days[-1].retrain, "whoever trains takes it back, nobody else"
