"""Tests that an experiment file uses only the data set's metrics."""

from mtorl.experiment import messages
from mtorl.experiment.metrics import (
    Metric,
    check_gain,
    check_metric,
    check_outcomes,
    is_gain,
    is_per_decision,
    metric,
    outcomes_of,
    parts_of,
)
from mtorl.log.gain import Gain
from tests.messages import raises


def test_a_gain_is_defined_by_the_data_set() -> None:
    revenue, both = Gain.of_spec("revenue"), Gain.of_spec({"click": 0.5, "conversion": 2})
    assert metric("gain_per_decision", revenue) == metric("revenue_per_decision", both)
    assert metric("cost_per_decision", revenue).numerator == (("outcome:cost", 1.0),)
    clicks_and_more = (("outcome:click", 0.5), ("outcome:conversion", 2.0))
    assert metric("gain_per_decision", both) == Metric(clicks_and_more, (("weight", 1.0),), largest=2.5)
    assert metric("gain_per_decision", Gain.of_spec({"click": 1, "profit": 1})).largest is None


def test_a_ratio_of_outcomes_divides_by_the_second_ones_sum() -> None:
    gain = Gain.of_spec({"click": 1, "revenue": 2})
    cost = (("outcome:cost", 1.0),)
    assert metric("gain_per_cost", gain) == Metric((("outcome:click", 1.0), ("outcome:revenue", 2.0)), cost)
    assert metric("cost_per_click", gain) == Metric(cost, (("outcome:click", 1.0),))
    assert outcomes_of("gain_per_cost", gain) == ("click", "revenue", "cost")
    assert outcomes_of("cost_per_decision", gain) == ("cost",) and outcomes_of("exposure_ratio", gain) == ()
    assert parts_of("views_per_visit_per_cost") == ("views_per_visit", "cost")
    assert check_gain("gain_per_cost") and check_gain("revenue_per_cost")
    for name in ("cost_per_click", "click_per_conversion"):
        assert check_metric(name) and not is_gain(name) and not is_per_decision(name)
    for name in ("cost_per_cost", "decision_per_cost", "per_cost"):
        with raises(ValueError, messages.UNKNOWN_METRIC, metric=name):
            check_metric(name)


def test_the_primary_metric_is_a_gain() -> None:
    assert check_gain("revenue_per_decision") == "revenue_per_decision"
    assert check_gain("profit_per_decision") == "profit_per_decision"
    for name in ("cost_per_decision", "exposure_ratio"):
        assert not is_gain(name)
        with raises(ValueError, messages.NO_GAIN, metric=name):
            check_gain(name)


def test_a_metric_of_an_unknown_outcome_is_refused() -> None:
    there = ("click", "cost", "profit")
    check_outcomes(("gain_per_decision", "profit_per_decision", "exposure_ratio"), there)
    with raises(ValueError, messages.UNKNOWN_OUTCOME, metric="profits_per_decision", outcome="profits"):
        check_outcomes(("click_per_decision", "profits_per_decision"), there)
    with raises(ValueError, messages.UNKNOWN_OUTCOME, metric="cost_per_visit", outcome="visit"):
        check_outcomes(("gain_per_cost", "cost_per_visit"), there)
