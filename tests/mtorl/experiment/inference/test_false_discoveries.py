"""Tests of the e-BH procedure, which bounds the rate of false discoveries."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment.inference.false_discoveries import discoveries, log_e_value, p_value
from mtorl.experiment.inference.statistics import confidence_sequence

ALPHA = 0.05


@given(z=st.floats(-8.0, 8.0), users=st.floats(100.0, 1e6))
def test_evidence_and_interval_agree(z: float, users: float) -> None:
    log_e = log_e_value(z, 1.0, users, alpha=ALPHA)
    low, high = confidence_sequence(z, 1.0, users, alpha=ALPHA)
    if abs(log_e - math.log(1 / ALPHA)) > 1e-9:
        assert (log_e > math.log(1 / ALPHA)) == bool(low > 0.0 or high < 0.0)
    assert p_value(log_e) == pytest.approx(min(1.0, math.exp(-log_e)))


def test_unknown_figures_are_no_evidence() -> None:
    assert log_e_value(math.nan, 1.0, 1e3, alpha=ALPHA) == -math.inf
    assert p_value(log_e_value(1.0, math.nan, 1e3, alpha=ALPHA)) == 1.0
    assert p_value(log_e_value(0.0, 0.0, 1e3, alpha=ALPHA)) == 1.0


def test_e_bh_finds_the_expected_metrics() -> None:
    """The k-th largest of four e-values must be at least 4 / (0.05 k): 80, 40, 26.7 and 20."""
    assert discoveries([], ALPHA) == []
    assert discoveries([math.log(79.0)] + [0.0] * 3, ALPHA) == [False] * 4
    assert discoveries([0.0, math.log(81.0), 0.0, 0.0], ALPHA) == [False, True, False, False]
    assert discoveries([math.log(41.0), 0.0, math.log(41.0), -math.inf], ALPHA) == [True, False, True, False]
    assert discoveries([math.log(20.5)] * 4, ALPHA) == [True] * 4


@given(st.lists(st.floats(-5.0, 12.0), min_size=1, max_size=12), st.data())
def test_more_evidence_never_takes_a_discovery_away(log_e: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log_e) - 1))
    more = [*log_e[:place], log_e[place] + 1.0, *log_e[place + 1 :]]
    before, after = discoveries(log_e, ALPHA), discoveries(more, ALPHA)
    assert all(there or not was for was, there in zip(before, after, strict=True))


@pytest.mark.parametrize("differing", [0, 3])
def test_false_discoveries_are_bounded_if_people_stop_at_the_first(differing: int) -> None:
    """Ten correlated metrics are looked at 40 times, until one is found."""
    rng = np.random.default_rng(8)
    metrics, runs, looks = 10, 400, np.unique(np.geomspace(200, 20_000, 40).astype(int))
    effects = np.where(np.arange(metrics) < differing, 0.04, 0.0)
    shares, alone = [], 0
    for _ in range(runs):
        shared = rng.normal(size=20_000)
        noise = 0.5 * shared + np.sqrt(0.75) * rng.normal(size=(metrics, 20_000))
        means = (noise.cumsum(1)[:, looks - 1] / looks) + effects[:, None]
        false = 0.0
        for look, users in enumerate(looks):
            log_e = [log_e_value(mean, 1.0 / math.sqrt(users), float(users), alpha=ALPHA) for mean in means[:, look]]
            if any(there := discoveries(log_e, ALPHA)):
                false = sum(there[differing:]) / sum(there)
                break
        shares.append(false)
        ones = looks * 0.0 + 1.0 / np.sqrt(looks)
        low, high = confidence_sequence(means[differing:], ones, looks, alpha=ALPHA)
        alone += bool(((low > 0.0) | (high < 0.0)).any())
    assert np.mean(shares) <= ALPHA
    assert alone / runs > ALPHA, "separate intervals must fail here, or the test proves nothing"
