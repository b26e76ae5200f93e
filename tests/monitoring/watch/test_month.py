"""Tests of a market's month: no alarm while it is healthy, and an alarm during a fault."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.monitoring.watch.market import DAYS, Market, fewer_clicks, kinds

pytestmark = pytest.mark.long
HEALTHY = 16  # days before each shift


def test_a_healthy_month_has_no_alarms(tmp_path: Path) -> None:
    """The healthy market differs at weekends and randomly between days."""
    market = Market(tmp_path)
    market.live(HEALTHY)
    for state in (market.check(), *market.nights(30 - HEALTHY)):
        assert not state.alarms() and state.retrain is None


def gone_at_noon(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    refused = rows["expose"] & (rows["hour"] >= 12)
    return rows.assign(exhausted=refused, expose=rows["expose"] & ~refused)


def test_an_exhausted_budget_is_a_ticket(tmp_path: Path) -> None:
    """An exhausted budget halves the clicks and opens a ticket, but other harm must still page."""
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
