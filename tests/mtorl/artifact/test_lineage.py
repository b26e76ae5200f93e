"""Where a version comes from: written and read as it is, and never mistaken for known where it is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mtorl.artifact.lineage import (
    COMPARED,
    FILE,
    Figure,
    Lineage,
    LineageError,
    Parent,
    PipelineRun,
    gate_report,
    lineage_of,
)

NOW = datetime(2026, 11, 29, 2, 0, tzinfo=UTC)
MODEL: dict[str, Any] = {"digest": "0a" * 32, "name": "challenger", "data_fingerprint": "94", "git_revision": "a2bf"}
EVALUATION: dict[str, Any] = {
    "challenger": {"reward_auc": 0.7, "reward_auc_ci": [0.68, 0.72], "action_auc": None, "reward_ece": 0.01},
    "value": {
        "challenger": 0.14,
        "challenger_ci": [0.13, 0.15],
        "difference": 0.08,
        "difference_ci": [0.07, 0.09],
    },
    "valued_on": "opportunities",
    "test_rows": 14391,
    "test_users": 1201,
}


def known() -> Lineage:
    return lineage_of(
        MODEL,
        "simulator",
        NOW,
        evaluation=EVALUATION,
        gate=gate_report(EVALUATION, "promote", "all above 0", 0.0),
        compared_with=Parent(relation=COMPARED, digest="2f" * 32),
        source="raw",
        collected="decisions",
        package="0.1.0",
        settings={"epochs": 12, "budget_share": 0.6},
        run=PipelineRun(pipeline="mtorl-train", name="night-1", id="b165"),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    known().write(tmp_path)
    assert Lineage.read(tmp_path) == known()
    written = json.loads((tmp_path / FILE).read_text())
    assert written["gate"]["lift"] == {"value": 0.08, "low": 0.07, "high": 0.09}
    assert written["parents"] == [{"relation": "compared with", "digest": "2f" * 32, "policy": None}]
    assert written["data"] | {"rows": 0} == {
        "name": "simulator", "log": "94", "source": "raw", "collected": "decisions", "rows": 0, "users": 1201
    }  # fmt: skip


def test_figures_have_their_intervals_where_there_are_any() -> None:
    assert known().metrics == {
        "value": Figure(value=0.14, low=0.13, high=0.15),
        "reward_auc": Figure(value=0.7, low=0.68, high=0.72),
        "reward_ece": Figure(value=0.01),
    }


def test_the_other_arm_of_an_evaluation_has_its_own_figures() -> None:
    value = {**EVALUATION["value"], "incumbent": 0.06, "incumbent_ci": [0.05, 0.07]}
    judged = {**EVALUATION, "value": value, "incumbent": {"reward_auc": 0.6, "reward_auc_ci": [0.58, 0.62]}}
    found = lineage_of(MODEL, "simulator", NOW, evaluation=judged, arm="incumbent")
    assert found.metrics == {
        "value": Figure(value=0.06, low=0.05, high=0.07),
        "reward_auc": Figure(value=0.6, low=0.58, high=0.62),
    }


def test_what_nobody_says_is_null() -> None:
    found = lineage_of({**MODEL, "git_revision": "unknown"}, "simulator", NOW)
    assert found.gate is None and found.parents == () and found.metrics == {} and found.run == PipelineRun()
    assert (found.code.git_revision, found.code.package, found.data.source, found.data.collected) == (None,) * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{", "Invalid JSON"),
        (known().model_dump_json().replace('"schema_version":1', '"schema_version":2'), "2 is not one of 1"),
        (known().model_dump_json().replace('"package"', '"packages"'), "unknown field 'packages'"),
    ],
    ids=["missing", "no JSON", "of a later release", "another field"],
)
def test_one_that_can_not_be_read_says_so(tmp_path: Path, text: str, says: str) -> None:
    if text:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(LineageError, match=says) as error:
        Lineage.read(tmp_path)
    assert str(tmp_path / FILE) in str(error.value)
