"""Decisions read by a repeated step."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset

from components.compact.component import compact
from components.fingerprint.component import fingerprint
from components.ingest.component import ingest
from mtorl.log.touchpoints import LOG_FILE
from tests.components.artifacts import CODE, USERS, Output
from tests.features.collect.decision_logs import START, add, decision, outcome, write

pytestmark = pytest.mark.integration
SOURCE = "simulator"


def test_a_repeated_step_reads_the_same_records(log: Artifact, output: Output, tmp_path: Path) -> None:
    lake = write(tmp_path / "lake", [of_market("a", 0)], [outcome("a-cost", "a", value=0.5)])
    decisions, content = compact.python_func(str(lake), SOURCE), fingerprint.python_func(SOURCE, SOURCE, "")[0]
    now = (datetime.now(UTC) + timedelta(seconds=1) - START).total_seconds() / 60
    read = []
    for time in ("first", "again"):
        made, quarantine = output(Dataset, time), output(Artifact, f"quarantine-{time}")
        ingest.python_func(
            SOURCE, SOURCE, "fail", USERS, 7, content, str(lake), decisions, 0, "", "", CODE, made, quarantine
        )
        read.append(pd.read_parquet(Path(made.path) / LOG_FILE))
        add(lake, [of_market("b", now)], [outcome("late", "a", value=0.25, minutes=now), outcome("b-cost", "b")])
        compact.python_func(str(lake), SOURCE)
    assert read[0]["collected"].sum() == 1
    pd.testing.assert_frame_equal(*read)


def of_market(name: str, minutes: float) -> dict[str, Any]:
    known = {"age_group": "30-39", "tenure_days": 3.0, "region": "north"}
    context = {"hour": 1.0, "device": "mobile", "placement": "feed"}
    return decision(name, minutes, context=context, static=known)
