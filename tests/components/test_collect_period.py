"""A period collected anew: what it gives, and what is said of one that is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.collect.component import collect
from components.collect_period.component import collect_period
from tests.features.collect.decision_logs import decision, outcome, stored, write


def test_the_digest_is_that_of_the_next_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which then has nothing to read anew."""
    log, store = str(tmp_path / "log"), str(tmp_path / "collected")
    write(tmp_path / "log" / "router-0", [decision("a"), decision("b", 61)], [outcome("a-cost", "a")])
    before = collect.python_func(log, store, "simulator")
    period = ("2026-01-01T12:00Z", "2026-01-01T13:00Z")
    assert collect_period.python_func(log, store, "simulator", *period) == before
    shutil.rmtree(tmp_path / "collected" / "decisions" / "date=2026-01-01" / "hour=12")
    assert collect.python_func(log, store, "simulator") != before, "an hour is gone, and no file of the log is new"
    after = collect_period.python_func(log, store, "simulator", *period)
    assert [row["decision_id"] for row in stored(tmp_path / "collected", "decision")] == ["a", "b"]
    assert collect.python_func(log, store, "simulator") == after
    assert "1 decisions and 0 outcomes more, of 1 hour" in capsys.readouterr().out
