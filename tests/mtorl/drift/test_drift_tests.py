"""Scores are those of Evidently, computed in one pass."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtorl.drift.drift_tests import CategoricalDistance, NumericDistance
from tests.mtorl.drift.journeys import KINDS, touchpoints

SCORERS = [(name, NumericDistance if kind == "numeric" else CategoricalDistance) for name, kind in KINDS.items()]


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
