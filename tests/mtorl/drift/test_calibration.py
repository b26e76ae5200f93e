"""Thresholds hold their error rate, for every size of a period, and shrink with its users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtorl.drift.calibration import Size, Thresholds, measure
from mtorl.drift.drift_tests import CategoricalDistance, NumericDistance, asked_of
from tests.mtorl.drift.journeys import KINDS, touchpoints

SCORERS = [(name, NumericDistance if kind == "numeric" else CategoricalDistance) for name, kind in KINDS.items()]


def distance(thresholds: Thresholds, column: str) -> float:
    """Threshold of a column's distance."""
    return thresholds[column, asked_of(KINDS[column])[-1].method]


def test_a_healthy_period_rarely_alarms_and_a_fixed_threshold_would() -> None:
    rng = np.random.default_rng(3)
    alarms = fixed = 0
    for seed in range(8):
        reference = touchpoints(rng, 300)
        limits = measure(reference, KINDS, Size(users=80, rows=640), alpha=0.05, seed=seed, imitations=200)
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


def test_thresholds_shrink_with_users_not_with_rows() -> None:
    reference = touchpoints(np.random.default_rng(0), 400)
    few = measure(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    many = measure(reference, KINDS, Size(users=200, rows=1_600), alpha=0.01, seed=0, imitations=100)
    thin = measure(reference, KINDS, Size(users=200, rows=400), alpha=0.01, seed=0, imitations=100)
    assert all(distance(many, name) < distance(few, name) for name in KINDS)
    assert distance(thin, "placement") > distance(many, "placement"), "fewer rows a user make a context column noisier"
    assert distance(thin, "region") == pytest.approx(distance(many, "region"), rel=0.25), "but hardly a static one"
    again = measure(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    assert again == few


def test_a_column_with_gaps_gets_a_missing_limit_from_its_own_noise() -> None:
    reference = touchpoints(np.random.default_rng(0), 200)
    silent = pd.factorize(reference["user_id"])[0] % 3 == 0
    reference.loc[silent, "region"] = None
    limits = measure(reference, KINDS, Size(users=30, rows=240), alpha=0.01, seed=0, imitations=100)
    assert limits["region", "missing_share_rise"] > 0.1 and limits["hour", "missing_share_rise"] == 0
