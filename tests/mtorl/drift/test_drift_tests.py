"""Tests that drift scores equal those of Evidently."""

import numpy as np
import pandas as pd
import pytest

from mtorl.drift.drift_tests import CategoricalDistance, MissingShareRise, NumericDistance
from tests.mtorl.drift.journeys import KINDS, touchpoints

SCORERS = [(name, NumericDistance if kind == "numeric" else CategoricalDistance) for name, kind in KINDS.items()]


@pytest.mark.integration
def test_fast_scores_equal_evidentlys() -> None:
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
    tests = {"numeric": (ColumnType.Numerical, "wasserstein"), "categorical": (ColumnType.Categorical, "jensenshannon")}
    for name, scorer in SCORERS:
        kind, method = tests[KINDS[name]]
        ref, cur = reference[name].dropna(), current[name].dropna()
        expected = get_stattest(ref, cur, kind, method)(ref, cur, kind, None).drift_score
        assert scorer(both[name])(in_reference * 1.0, ~in_reference * 1.0) == pytest.approx(expected, rel=1e-9)


def test_scores_of_many_periods_equal_those_of_each_period() -> None:
    rng = np.random.default_rng(6)
    table = touchpoints(rng, 90)
    table.loc[:30, ["hour", "region"]] = [np.nan, None]
    period_NP = (rng.random((len(table), 7)) < 0.3) * 1.0
    period_NP[:, 3] = 0.0  # a period without rows
    for name, scorer in (*SCORERS, *((name, MissingShareRise) for name in KINDS)):
        score = scorer(table[name])
        alone = [score(1.0 - period_N, period_N) for period_N in period_NP.T]
        np.testing.assert_allclose(score(1.0 - period_NP, period_NP), alone, rtol=1e-12, atol=1e-15)


def test_a_column_without_values_has_not_moved() -> None:
    weights = np.ones(4), np.ones(4)
    assert NumericDistance(pd.Series([np.nan] * 4))(*weights) == 0.0
    assert CategoricalDistance(pd.Series([None] * 4, dtype=object))(*weights) == 0.0


@pytest.mark.parametrize("huge", [1e12, 1e100])
def test_a_huge_value_without_weight_changes_no_score(huge: float) -> None:
    rng = np.random.default_rng(7)
    x = pd.Series(rng.normal(size=400))
    reference = (rng.random(400) < 0.8) * 1.0
    reference[0] = 0.0
    period = (rng.random(400) < 0.2) * (1.0 - reference)
    period[0] = 0.0
    without = NumericDistance(x)(reference, period)
    x[0] = huge
    assert NumericDistance(x)(reference, period) == pytest.approx(without, rel=1e-9)
