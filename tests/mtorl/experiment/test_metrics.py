"""The metrics that an experiment file may name."""

from __future__ import annotations

import pytest

from mtorl.experiment.metrics import METRICS, known, known_gain, metric_of


def test_a_gain_is_that_of_the_data_set() -> None:
    assert metric_of("gain_per_decision", "revenue") == "revenue_per_decision"
    assert metric_of("cost_per_decision", "revenue") == "cost_per_decision"


def test_an_unknown_metric_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'happiness' is not known; known: gain_per_decision, click_per_decision"):
        metric_of("happiness", "click")
    assert all(known(name) == name for name in METRICS)


def test_the_primary_metric_is_a_gain() -> None:
    assert known_gain("revenue_per_decision") == "revenue_per_decision"
    with pytest.raises(ValueError, match="'cost_per_decision' is no gain"):
        known_gain("cost_per_decision")
