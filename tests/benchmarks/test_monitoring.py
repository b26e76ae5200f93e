"""The benchmark of the monitor: its market is the one that it says, and its table says what was missed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from benchmarks.monitoring_runs.days import Days
from benchmarks.monitoring_runs.shifts import COLUMN, SCENARIOS
from benchmarks.monitoring_runs.table import monitoring_tables

DAYS = Days(users_a_day=1_000, seed=1, further=1)
FOUND = {"windows": 200, "pages": 0, "measures": 1, "columns": 2, "evidently": 150}
DELAY = {"any": 1, "right": 2, "evidently": None}
FIGURES: dict[str, Any] = {
    "environment": {"cpu": "a processor", "cores": 2, "system": "Linux", "python": "3.11"},
    "columns": 40,
    "looked": 6,
    "users_of_clean": 1_000,
    "cost": {"decisions": 1_000_000, "columns": 40, "runs": {"page": {"cpu_seconds": 9.0, "peak_mib": 700.0}}},
    "mean_runs": [
        {
            "streams": 4,
            "alike": False,
            "promised": 1_000,
            "mean": 1_500.0,
            "se": 50.0,
            "without_alarm": 0.1,
            "periods": 20_000,
        }
    ],
    "clean": [FOUND, FOUND],
    "season": [FOUND],
    "power": {"500": [{name: {"hours": 2} if one.by_hours else DELAY for name, one in SCENARIOS.items()}]},
}


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


def test_the_table_says_whether_the_aims_were_met() -> None:
    text = monitoring_tables(FIGURES)
    assert "missed" not in text and text.count("kept") == 2
    assert "| cost x 1.25 | 500 | 1 | 2 | 100% | 100% | 1 | > 6, 0% |" in text
    assert "2 hours | 100% within a day" in text and "0.0% (0.0% to 0.9%)" in text and "75.0%" in text
    worse = copy.deepcopy(FIGURES)
    worse["cost"]["runs"]["page"] = {"cpu_seconds": 12.0, "peak_mib": 2_000.0}
    worse["season"][0]["pages"] = 20
    worse["power"]["500"][0]["cost"]["right"] = 3
    text = monitoring_tables(worse)
    assert text.count("**missed**") == 4 and "**missed** with 500 users" in text and "12.0 (**missed**)" in text
