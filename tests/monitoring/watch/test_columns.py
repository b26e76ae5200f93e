import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.watch.columns import DriftResult, check
from mtorl.drift.drift_tests import asked_of
from mtorl.drift.thresholds import Size, ThresholdGrid
from mtorl.log.dataset import Column
from tests.mtorl.drift.journeys import COLUMNS, KINDS, touchpoints


def measured(reference: pd.DataFrame, kinds: Mapping[str, str] = KINDS) -> ThresholdGrid:
    return ThresholdGrid.measure(reference, kinds, imitations=100)


def problems_of(result: DriftResult) -> tuple[str, ...]:
    return tuple(column.column for column in result.columns if column.problem is not None)


def test_too_little_data_is_reported_and_stored(tmp_path: Path) -> None:
    reference = touchpoints(np.random.default_rng(0), 100)
    for current, why in (
        (reference.head(10), "10 rows"),
        (reference.head(0), "0 rows"),
        (reference.assign(user_id="one"), "1 users"),
        (reference.drop(columns="user_id"), "'user_id'"),
        (reference, "no thresholds"),
    ):
        result = check(reference, current, COLUMNS, None, out_dir=tmp_path)
        assert result.not_checked is not None and why in result.not_checked and problems_of(result) == ()
        assert json.loads((tmp_path / "drift.json").read_text())["not_checked"] == result.not_checked
    assert not (tmp_path / "drift.html").exists()


@pytest.mark.integration
def test_healthy_and_shifted_periods_with_and_without_a_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    reference, clean, shifted = touchpoints(rng, 400), touchpoints(rng, 300), touchpoints(rng, 300, mobile=2.0)
    shifted["tenure"] *= 2
    grid = measured(reference)
    for current, moved in ((clean, ()), (shifted, ("device", "tenure"))):
        drawn = check(reference, current, COLUMNS, grid, out_dir=tmp_path)
        assert problems_of(drawn) == moved and drawn.not_checked is None
        assert json.loads((tmp_path / "drift.json").read_text()) == json.loads(json.dumps(asdict(drawn)))
        page = tmp_path / "drift.html"
        assert "<html" in page.read_text()
        page.unlink()
        for when, expected in (("never", False), ("moved", bool(moved))):
            assert check(reference, current, COLUMNS, grid, out_dir=tmp_path, page=when) == drawn  # type: ignore[arg-type]
            assert page.exists() == expected
    device = next(column for column in drawn.columns if column.column == "device")
    assert device.message.startswith("'mobile' in 79.4% of the rows, in training 50.0%; jensenshannon 0.220 of at most")


def test_a_missing_column_changes_no_other_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    reference, current = touchpoints(rng, 200).assign(x=1.0), touchpoints(rng, 150).assign(x=1.0)
    grid = measured(reference)
    expected = grid.at(Size(150, len(current)), KINDS)
    found = check(reference, current, (*COLUMNS, X), grid, out_dir=tmp_path, page="never")
    assert problems_of(found) == ()
    thresholds = {column.column: column.threshold for column in found.columns}
    assert thresholds.pop("x") is None, "the reference had no column x to measure"
    assert thresholds == {name: expected[name, asked_of(kind)[-1].method] for name, kind in KINDS.items()}
    lacking = current.drop(columns="region").assign(tenure=None)
    fewer = check(reference, lacking, COLUMNS, grid, out_dir=tmp_path, page="never")
    problems = {c.column: (c.problem, c.threshold) for c in fewer.columns}
    assert problems["region"] == ("no_column", None) and problems["tenure"] == ("no_values", None)
    assert problems["hour"] == (None, expected["hour", "wasserstein"])


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
    current["largest"] = sys.float_info.max  # some systems write this for "unknown"
    current["hour"] = "noon"
    current["region"] = None
    current.loc[current.index % 3 == 0, "placement"] = None
    grid = measured(reference, {column.name: column.kind for column in columns})
    result = check(reference, current, columns, grid, out_dir=tmp_path)
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
    everything = check(reference, current[["user_id"]], columns, grid, out_dir=tmp_path / "nothing")
    assert set(problems_of(everything)) == {column.name for column in columns}
    assert not (tmp_path / "nothing" / "drift.html").exists()
