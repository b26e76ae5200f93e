"""A log is compared with what the newest training read."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.validate import validate
from mtorl.log.trainings import LogFacts, Training, add


def note(history: Path, log: LogFacts) -> None:
    add(history, Training(at=datetime.now(UTC), log=log, decision="reject", reason="a test"))


@pytest.mark.integration
def test_a_log_that_has_lost_days_is_refused_and_one_that_has_grown_is_not(log: Artifact, tmp_path: Path) -> None:
    assert validate.python_func(log, str(tmp_path), "fail") == "the first training here"
    assert validate.python_func(log, "", "fail") == "the first training here"
    seen = LogFacts.of(Path(log.path))
    newest = max(seen.days)
    grown = {day: rows for day, rows in seen.days.items() if day != newest}
    note(tmp_path, seen.model_copy(update={"days": grown}))
    assert validate.python_func(log, str(tmp_path), "fail").startswith(f"+{seen.days[newest]:,} touchpoints")

    note(tmp_path, seen.model_copy(update={"days": {**seen.days, "2199-01-01": 10_000}, "channels": seen.channels[1:]}))
    with pytest.raises(
        SystemExit, match=r"has lost 10,000 of .* on 2199-01-01.*\n.*set the parameter shrunk to accept"
    ):
        validate.python_func(log, str(tmp_path), "fail")
    said = validate.python_func(log, str(tmp_path), "accept")
    assert "has lost 10,000" in said and f"no model that serves knows yet: {seen.channels[0]}" in said
    with pytest.raises(SystemExit, match="'perhaps' is not one of"):
        validate.python_func(log, str(tmp_path), "perhaps")
