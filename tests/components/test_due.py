"""When a training is due: at first, when the monitor asks, and by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.due.component import due
from monitoring.watch.state import STATE_FILE, RetrainRequest, State
from mtorl.log.trainings import LogFacts, Training, add

NOW = datetime.now(UTC)


def trained(history: Path, ago: timedelta) -> None:
    log = LogFacts(dataset="shop", channels=("search",), days={})
    add(history, Training(at=NOW - ago, log=log, decision="reject", reason="no better"))


def test_the_first_one_is(tmp_path: Path) -> None:
    assert due.python_func(str(tmp_path / "trainings"), "", 7.0) == "yes"


def test_one_that_is_too_old_makes_another_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, timedelta(days=8))
    assert due.python_func(str(tmp_path), "", 7.0) == "yes"
    assert "8.0 days old" in capsys.readouterr().out
    assert due.python_func(str(tmp_path), "", 9.0) == "no"
    assert due.python_func(str(tmp_path), "", 0.0) == "no", "age is no reason"


def test_a_request_of_the_monitor_makes_one_due_until_it_is_answered(tmp_path: Path) -> None:
    trained(tmp_path, timedelta(hours=10))
    monitor = tmp_path / "monitor"
    for hours, answer in ((12, "no"), (8, "yes")):
        asked = RetrainRequest(since=NOW - timedelta(hours=hours), reason="device has moved", model_version="a")
        State(retrain=asked).write(monitor / STATE_FILE)
        assert due.python_func(str(tmp_path), str(monitor), 7.0) == answer
    trained(tmp_path, timedelta(hours=1))
    assert due.python_func(str(tmp_path), str(monitor), 7.0) == "no"


def test_a_state_that_can_not_be_read_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{")
    with pytest.raises(SystemExit, match="not a monitor's state"):
        due.python_func(str(tmp_path), str(tmp_path), 7.0)
