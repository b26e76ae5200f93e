"""Drift: thresholds that hold their error rate, scores equal to Evidently's, broken data that never crash."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring import drift, drift_tests
from monitoring.alerts import drift_alerts
from monitoring.calibration import Size, Thresholds, calibrate
from monitoring.drift_tests import CategoricalDistance, DriftTest, NumericDistance, Words, asked_of
from mtorl.log.dataset import Column

COLUMNS = (
    Column(name="hour", kind="numeric"),
    Column(name="device", kind="categorical"),
    Column(name="placement", kind="categorical"),
    Column(name="tenure", kind="numeric"),
    Column(name="region", kind="categorical"),
)
KINDS = {column.name: column.kind for column in COLUMNS}


def touchpoints(rng: np.random.Generator, users: int, mean: int = 8, mobile: float = 0.0) -> pd.DataFrame:
    """Journeys whose rows resemble each other within a user, as real ones do."""
    length = 2 + rng.poisson(mean - 2, users)
    of = np.repeat(np.arange(users), length)
    rows = len(of)
    taste = rng.normal(size=users)
    return pd.DataFrame(
        {
            "user_id": [f"u{i}" for i in of],
            "hour": (13 + 4 * taste[of] + 2 * rng.normal(size=rows)) % 24,
            "device": np.where(rng.random(rows) < 1 / (1 + np.exp(-mobile - 2 * taste[of])), "mobile", "desktop"),
            "placement": rng.choice(["feed", "story", "banner"], rows, p=[0.6, 0.3, 0.1]),
            "tenure": rng.exponential(200, users)[of],
            "region": rng.choice(list("NESW"), users)[of],
        }
    )


def distance(thresholds: Thresholds, column: str) -> float:
    """Threshold of a column's distance."""
    return thresholds[column, asked_of(KINDS[column])[-1].method]


def test_a_healthy_period_rarely_alarms_and_a_fixed_threshold_would() -> None:
    rng = np.random.default_rng(3)
    alarms = fixed = 0
    for seed in range(8):
        reference = touchpoints(rng, 300)
        limits = calibrate(reference, KINDS, Size(users=80, rows=640), alpha=0.05, seed=seed, imitations=200)
        for _ in range(10):
            both = pd.concat([reference, touchpoints(rng, 80)], ignore_index=True)
            in_reference = np.arange(len(both)) < len(reference)
            scores = {
                name: scorer(both[name])(in_reference.astype(float), ~in_reference * 1.0) for name, scorer in SCORERS
            }
            alarms += any(score >= distance(limits, name) for name, score in scores.items())
            fixed += any(score >= 0.1 for score in scores.values())
    assert alarms <= 12, "80 periods at 5 %"
    assert fixed > 60


SCORERS = [(name, NumericDistance if kind == "numeric" else CategoricalDistance) for name, kind in KINDS.items()]


def test_thresholds_shrink_with_users_not_with_rows() -> None:
    reference = touchpoints(np.random.default_rng(0), 400)
    few = calibrate(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    many = calibrate(reference, KINDS, Size(users=200, rows=1_600), alpha=0.01, seed=0, imitations=100)
    thin = calibrate(reference, KINDS, Size(users=200, rows=400), alpha=0.01, seed=0, imitations=100)
    assert all(distance(many, name) < distance(few, name) for name in KINDS)
    assert distance(thin, "placement") > distance(many, "placement"), "fewer rows a user make a context column noisier"
    assert distance(thin, "region") == pytest.approx(distance(many, "region"), rel=0.25), "but hardly a static one"
    again = calibrate(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    assert again == few


def test_a_column_with_gaps_gets_a_missing_limit_from_its_own_noise() -> None:
    reference = touchpoints(np.random.default_rng(0), 200)
    silent = pd.factorize(reference["user_id"])[0] % 3 == 0
    reference.loc[silent, "region"] = None
    limits = calibrate(reference, KINDS, Size(users=30, rows=240), alpha=0.01, seed=0, imitations=100)
    assert limits["region", "missing_share_rise"] > 0.1 and limits["hour", "missing_share_rise"] == 0.05


def test_too_little_data_is_said_and_written(tmp_path: Path) -> None:
    reference = touchpoints(np.random.default_rng(0), 100)
    for current, why in (
        (reference.head(10), "10 rows"),
        (reference.head(0), "0 rows"),
        (reference.assign(user_id="one"), "1 users"),
        (reference.drop(columns="user_id"), "'user_id'"),
    ):
        result = drift.check(reference, current, COLUMNS, out_dir=tmp_path / "w")
        assert result.not_checked is not None and why in result.not_checked
        assert result.detected_columns == () and result.html is None
        assert json.loads(Path(result.json).read_text())["not_checked"] == result.not_checked


def test_sampling_keeps_whole_users_and_the_same_ones() -> None:
    frame = touchpoints(np.random.default_rng(0), 200)
    kept = drift.sample_users(frame, 400)
    assert 200 < len(kept) < 700
    assert len(kept) == frame["user_id"].isin(kept["user_id"].unique()).sum()
    shuffled = frame.sample(frac=1, random_state=1)
    assert drift.sample_users(shuffled, 400).index.sort_values().equals(kept.index)


@pytest.mark.integration
def test_fast_scores_are_evidentlys() -> None:
    import os

    os.environ["DO_NOT_TRACK"] = "1"
    from evidently.legacy.calculations.stattests.registry import get_stattest
    from evidently.legacy.core import ColumnType

    rng = np.random.default_rng(5)
    reference, current = touchpoints(rng, 120), touchpoints(rng, 60, mobile=1.0)
    current.loc[:30, ["hour", "region"]] = [np.nan, None]
    current.loc[40:60, "region"] = "new"
    current.loc[50:90, "tenure"] = 1e6
    both = pd.concat([reference, current], ignore_index=True)
    in_reference = np.arange(len(both)) < len(reference)
    for name, scorer in SCORERS:
        kind, method = (
            (ColumnType.Numerical, "wasserstein")
            if KINDS[name] == "numeric"
            else (ColumnType.Categorical, "jensenshannon")
        )
        ref, cur = reference[name].dropna(), current[name].dropna()
        expected = get_stattest(ref, cur, kind, method)(ref, cur, kind, None).drift_score
        assert scorer(both[name])(in_reference * 1.0, ~in_reference * 1.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.integration
def test_check_end_to_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    reference, clean, shifted = touchpoints(rng, 400), touchpoints(rng, 300), touchpoints(rng, 300, mobile=2.0)
    shifted["tenure"] *= 2
    good = drift.check(reference, clean, COLUMNS, out_dir=tmp_path / "clean")
    assert good.detected_columns == () and good.not_checked is None and good.period == "clean"
    bad = drift.check(reference, shifted, COLUMNS, out_dir=tmp_path / "shifted")
    assert bad.detected_columns == ("device", "tenure")
    for result in (good, bad):
        assert result.html is not None and "<html" in Path(result.html).read_text()
        assert json.loads(Path(result.json).read_text()) == json.loads(json.dumps(result.to_dict()))
    device = next(column for column in bad.columns if column.column == "device")
    assert device.score is not None and device.threshold is not None and device.score >= device.threshold
    assert "jensenshannon" in device.message


@pytest.mark.integration
def test_broken_columns_are_findings(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    reference, current = touchpoints(rng, 200), touchpoints(rng, 150)
    columns = (
        *COLUMNS,
        Column(name="gone", kind="numeric"),
        Column(name="price", kind="numeric"),
        Column(name="constant", kind="numeric"),
    )
    reference[["gone", "price", "constant"]] = 1.0
    reference["price"] = rng.gamma(2, 2, len(reference))
    current["price"] = [Decimal("1.5")] * (len(current) - 1) + [Decimal("Infinity")]
    current["constant"] = 1.0
    current["hour"] = "noon"
    current["region"] = None
    current.loc[current.index % 3 == 0, "placement"] = None
    result = drift.check(reference, current, columns, out_dir=tmp_path / "broken")
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
    }
    everything = drift.check(reference, current[["user_id"]], columns, out_dir=tmp_path / "nothing")
    assert set(everything.detected_columns) == {column.name for column in columns} and everything.html is None


@pytest.mark.integration
def test_a_further_test_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its definition alone follow its threshold, its finding, its alert and its words in the report."""

    class LargestRise:
        def __init__(self, values: pd.Series) -> None:
            self.values = values.to_numpy()

        def __call__(self, reference: np.ndarray, period: np.ndarray) -> float:
            return float(np.max(self.values[period > 0]) - np.max(self.values[reference > 0]))

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
    result = drift.check(reference, current, COLUMNS, out_dir=tmp_path / "odd")
    (tenure,) = (column for column in result.columns if column.detected)
    assert (tenure.column, tenure.problem, tenure.method) == ("tenure", "outlier", "largest_rise")
    (alert,) = drift_alerts(result, "v1")
    assert alert["labels"]["kind"] == "data_quality" and "beyond all known ones" in alert["annotations"]["summary"]
