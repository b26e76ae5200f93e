"""A log is compared with what the newest training read."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.validate.component import validate
from mtorl.log.touchpoints import INGEST_FILE
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
    assert "has lost 10,000" in said and f"no earlier model knows: {seen.channels[0]} (docs/" in said
    with pytest.raises(SystemExit, match="'perhaps' is not one of"):
        validate.python_func(log, str(tmp_path), "perhaps")


@pytest.mark.integration
def test_rows_that_were_left_out_are_named_where_the_log_has_lost_some(log: Artifact, tmp_path: Path) -> None:
    quarantined = Artifact(uri=str(tmp_path / "log"))
    shutil.copytree(log.path, quarantined.path)
    report = Path(quarantined.path) / INGEST_FILE
    report.write_text(json.dumps({**json.loads(report.read_text()), "quarantined": 2_000}))
    seen = LogFacts.of(Path(log.path))
    note(tmp_path / "trainings", seen.model_copy(update={"days": {**seen.days, "2199-01-01": 2_000}}))
    with pytest.raises(SystemExit, match=r"has lost 2,000 .*; 2,000 rows of the log were faulty, and left out"):
        validate.python_func(quarantined, str(tmp_path / "trainings"), "fail")
