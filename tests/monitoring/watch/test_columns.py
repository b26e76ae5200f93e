"""Columns of a period: thresholds, scores equal to Evidently's, broken data that never crash."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.watch.columns import check
from mtorl.drift import drift_tests
from mtorl.drift.calibration import Size, Thresholds, calibrate
from mtorl.drift.drift_tests import DriftTest, Words
from mtorl.drift.thresholds import ThresholdGrid
from mtorl.log.dataset import Column
from tests.mtorl.drift.journeys import COLUMNS, KINDS, touchpoints


def test_too_little_data_is_said_and_written(tmp_path: Path) -> None:
    reference = touchpoints(np.random.default_rng(0), 100)
    for current, why in (
        (reference.head(10), "10 rows"),
        (reference.head(0), "0 rows"),
        (reference.assign(user_id="one"), "1 users"),
        (reference.drop(columns="user_id"), "'user_id'"),
    ):
        result = check(reference, current, COLUMNS, out_dir=tmp_path / "w")
        assert result.not_checked is not None and why in result.not_checked
        assert result.detected_columns == () and result.html is None
        assert json.loads(Path(result.json).read_text())["not_checked"] == result.not_checked


@pytest.mark.integration
def test_check_end_to_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    reference, clean, shifted = touchpoints(rng, 400), touchpoints(rng, 300), touchpoints(rng, 300, mobile=2.0)
    shifted["tenure"] *= 2
    good = check(reference, clean, COLUMNS, out_dir=tmp_path / "clean")
    assert good.detected_columns == () and good.not_checked is None and good.period == "clean"
    bad = check(reference, shifted, COLUMNS, out_dir=tmp_path / "shifted")
    assert bad.detected_columns == ("device", "tenure")
    for result in (good, bad):
        assert result.html is not None and "<html" in Path(result.html).read_text()
        assert json.loads(Path(result.json).read_text()) == json.loads(json.dumps(result.to_dict()))
    device = next(column for column in bad.columns if column.column == "device")
    assert device.score is not None and device.threshold is not None and device.score >= device.threshold
    assert "jensenshannon" in device.message


@pytest.mark.integration
def test_thresholds_of_the_artifact_are_used_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    reference, current = touchpoints(rng, 200), touchpoints(rng, 150)
    grid = ThresholdGrid.measure(reference, KINDS, imitations=100)
    lacking = current.drop(columns="region").assign(tenure=None)
    calibrated: list[float] = []

    def counted(*args: Any, **kwargs: Any) -> Thresholds:
        calibrated.append(kwargs["alpha"])
        return calibrate(*args, **kwargs, imitations=100)

    monkeypatch.setattr("monitoring.watch.columns.calibrate", counted)
    size = Size(150, len(current))
    expected, found = grid.at(size, KINDS), check(reference, current, COLUMNS, out_dir=tmp_path / "a", grid=grid)
    assert expected is not None and found.detected_columns == ()
    assert all(column.threshold == expected[column.column, column.method] for column in found.columns)
    # What the period lacks is a finding, and moves no other column's threshold.
    fewer = check(reference, lacking, COLUMNS, out_dir=tmp_path / "b", grid=grid)
    problems = {c.column: (c.problem, c.threshold) for c in fewer.columns}
    assert problems["region"] == ("no_column", None) and problems["tenure"] == ("no_values", None)
    assert problems["hour"] == (None, expected["hour", "wasserstein"])
    assert not calibrated
    # Another alpha, a column that the grid lacks, and an older artifact: calibrated for this period.
    check(reference, current, COLUMNS, out_dir=tmp_path / "c", grid=grid, alpha=0.05)
    check(reference.assign(x=1.0), current.assign(x=1.0), (*COLUMNS, X), out_dir=tmp_path / "d", grid=grid)
    check(reference, current, COLUMNS, out_dir=tmp_path / "e")
    assert calibrated == [0.05, 0.01, 0.01]


X = Column(name="x", kind="numeric")


@pytest.mark.integration
def test_broken_columns_are_findings(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    reference, current = touchpoints(rng, 200), touchpoints(rng, 150)
    columns = (
        *COLUMNS,
        Column(name="gone", kind="numeric"),
        Column(name="price", kind="numeric"),
        Column(name="constant", kind="numeric"),
        Column(name="largest", kind="numeric"),
    )
    reference[["gone", "price", "constant", "largest"]] = 1.0
    reference["price"] = rng.gamma(2, 2, len(reference))
    current["price"] = [Decimal("1.5")] * (len(current) - 1) + [Decimal("Infinity")]
    current["constant"] = 1.0
    current["largest"] = sys.float_info.max  # "unknown" to some systems
    current["hour"] = "noon"
    current["region"] = None
    current.loc[current.index % 3 == 0, "placement"] = None
    result = check(reference, current, columns, out_dir=tmp_path / "broken")
    problems = {column.column: column.problem for column in result.columns}
    assert problems == {
        "hour": "no_values",
        "device": None,
        "placement": "missing_values",
        "tenure": None,
        "region": "no_values",
        "gone": "no_column",
        "price": "drift",
        "constant": None,
        "largest": "no_values",
    }
    everything = check(reference, current[["user_id"]], columns, out_dir=tmp_path / "nothing")
    assert set(everything.detected_columns) == {column.name for column in columns} and everything.html is None


@pytest.mark.integration
def test_a_further_test_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its definition alone follow its threshold, its finding, its message and its words in the report."""

    class LargestRise:
        def __init__(self, values: pd.Series) -> None:
            self.values = values.to_numpy()

        def __call__(self, reference: np.ndarray, period: np.ndarray) -> np.ndarray:
            of_reference, of_period = (
                np.where(rows.T > 0, self.values, -np.inf).max(-1) for rows in (reference, period)
            )
            return of_period - of_reference

    outlier = DriftTest(
        problem="outlier",
        words=Words("data_quality", "has a value beyond all known ones", "outlier"),
        kinds=("numeric",),
        method="largest_rise",
        scorer=LargestRise,
        floor=1.0,
        message="{score:.1f} more than ever, allowed are {threshold:.1f}",
        joint=False,
    )
    monkeypatch.setattr(drift_tests, "TESTS", (outlier, *drift_tests.TESTS))
    rng = np.random.default_rng(3)
    reference, current = touchpoints(rng, 200), touchpoints(rng, 150)
    current.loc[7, "tenure"] = 1e5
    result = check(reference, current, COLUMNS, out_dir=tmp_path / "odd")
    (tenure,) = (column for column in result.columns if column.detected)
    assert (tenure.column, tenure.problem, tenure.method) == ("tenure", "outlier", "largest_rise")
    assert drift_tests.words_of("outlier").kind == "data_quality"


@pytest.mark.integration
def test_without_a_page_the_scores_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    reference, current = touchpoints(rng, 200), touchpoints(rng, 150, mobile=1.0)
    grid = ThresholdGrid.measure(reference, KINDS, imitations=50)
    drawn = check(reference, current, COLUMNS, out_dir=tmp_path / "a", grid=grid)
    plain = check(reference, current, COLUMNS, out_dir=tmp_path / "b", grid=grid, page="never")
    assert drawn.html is not None and plain.html is None and not (tmp_path / "b" / "drift.html").exists()
    assert drawn.detected_columns == plain.detected_columns == ("device",)
    for one, other in zip(drawn.columns, plain.columns, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-6, abs=1e-9)
