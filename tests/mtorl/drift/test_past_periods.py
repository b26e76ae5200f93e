"""What earlier periods lead one to expect: p-values are as rare as they say, also of what never varies."""

from __future__ import annotations

import numpy as np
import pytest

from mtorl.drift.past_periods import FEWEST, MOST, SMALLEST, Forecast


@pytest.mark.parametrize("periods", [FEWEST, 14, MOST])
@pytest.mark.parametrize("between", [0.0, 0.04, 0.1])
def test_p_values_of_healthy_periods_are_uniform(periods: int, between: float) -> None:
    """Values around .1: a period's own deviation, as a share of that, and the chance of who comes."""
    rng, runs = np.random.default_rng(periods), 3_000
    se_RP = 0.004 * np.exp(rng.normal(0.0, 0.2, (runs, periods + 1)))
    value_RP = 0.1 + 0.1 * between * rng.normal(size=(runs, periods + 1)) + se_RP * rng.normal(size=se_RP.shape)
    p_R3 = np.array([_p_values(value_P, se_P) for value_P, se_P in zip(value_RP, se_RP, strict=True)])
    share_3 = (p_R3 < 0.05).mean(axis=0)
    assert (share_3 < 0.068).all(), "more would be false alarms"
    assert ((p_R3 < 0.001).mean(axis=0) < 0.003).all(), "evidence is made of the small ones"
    if between > SMALLEST:  # where days hardly differ, they are taken to differ by SMALLEST all the same
        assert (share_3 > 0.02).all(), "fewer would hide what has changed"


def _p_values(value_P: np.ndarray, se_P: np.ndarray) -> tuple[float, float, float]:
    past = list(zip(value_P[:-1].tolist(), se_P[:-1].tolist(), strict=True))
    forecast = Forecast.of(past, se_P[-1])
    assert forecast is not None
    return forecast.p_below(value_P[-1]), forecast.p_above(value_P[-1]), forecast.p_apart(value_P[-1])


def test_too_few_periods_say_nothing() -> None:
    past = [(0.1, 0.01)] * (FEWEST - 1)
    assert Forecast.of(past, 0.01) is None
    assert Forecast.of([*past, (0.1, 0.01)], 0.01) is not None


def test_only_the_newest_periods_count() -> None:
    old, new = [(5.0, 0.01)] * MOST, [(0.1, 0.01)] * MOST
    assert Forecast.of(old + new, 0.01) == Forecast.of(new, 0.01)


def test_both_directions() -> None:
    forecast = Forecast.of([(0.1, 0.002)] * 20, 0.002)
    assert forecast is not None and forecast.mean == pytest.approx(0.1)
    assert forecast.p_below(0.08) < 1e-4 < 0.999 < forecast.p_above(0.08)
    assert forecast.p_apart(0.08) == pytest.approx(2 * forecast.p_below(0.08))
    assert forecast.p_apart(0.1) == pytest.approx(1.0)


def test_a_share_that_was_always_zero() -> None:
    always = [(0.0, 0.0)] * 20
    forecast = Forecast.of(always, se=1e-4, smallest=0.005)
    assert forecast is not None
    assert forecast.p_apart(1e-4) > 0.5, "one fallback in ten thousand is no news"
    assert forecast.p_apart(0.05) < 1e-6, "one in twenty is"
    assert forecast.p_apart(0.0) == 1.0
    # Without a smallest spread, what has never been is news as soon as it is more than chance.
    strict = Forecast.of(always, se=1e-4)
    assert strict is not None and strict.p_apart(1e-4) > 0.1 > 1e-6 > strict.p_apart(0.002)


def test_a_constant_measure_may_move_by_a_little() -> None:
    forecast = Forecast.of([(0.25, 0.0)] * 14, se=0.0)
    assert forecast is not None and forecast.sd == pytest.approx(SMALLEST * 0.25)
    assert forecast.p_apart(0.251) > 0.5 and forecast.p_apart(0.4) < 1e-6
