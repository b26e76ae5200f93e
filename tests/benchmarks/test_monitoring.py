"""The market of the monitor's benchmark is the one that it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.monitoring_runs.days import Days
from benchmarks.monitoring_runs.shifts import COLUMN, SCENARIOS

DAYS = Days(users_a_day=1_000, seed=1, further=1)


def test_days_are_the_same_each_time_and_shifts_are_what_they_say() -> None:
    healthy = DAYS.rows(3)
    assert healthy.equals(DAYS.rows(3)) and not healthy.equals(DAYS.rows(4))
    changed = {name: DAYS.rows(3, one.shift) for name, one in SCENARIOS.items()}
    assert changed["cost"]["cost"].to_numpy() == pytest.approx(healthy["cost"].to_numpy() * 1.25)
    assert changed["clicks"]["rate"].to_numpy() == pytest.approx(healthy["rate"].to_numpy() * 0.8)
    assert changed["unit"][COLUMN].to_numpy() == pytest.approx(healthy[COLUMN].to_numpy() * 100)
    assert changed["null"][COLUMN].isna().all() and healthy[COLUMN].notna().all()
    new = changed["segment"]["user_id"].str.startswith("new-")
    assert 0.07 < new.mean() < 0.13 and (new == (changed["segment"]["device"] == "tv")).all()


def test_records_are_those_of_the_rows() -> None:
    rows = DAYS.rows(3)
    decisions, outcomes = DAYS.records(3, rows)
    assert decisions["expected_reward"].tolist() == rows["expected"].tolist()
    shown = rows["expose"].to_numpy()
    assert (outcomes["kind"] == "cost").sum() == shown.sum()
    assert (outcomes["kind"] == "click").sum() == (shown & rows["clicked"].to_numpy()).sum()
    assert np.isclose(outcomes.loc[outcomes["kind"] == "cost", "value"].sum(), rows.loc[shown, "cost"].sum())
