"""Tests that forecasts from earlier periods give calibrated p-values."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.drift.past_periods import FEWEST, MOST, SMALLEST, WEEKEND, Forecast


@pytest.mark.parametrize("periods", [FEWEST, 14, MOST])
@pytest.mark.parametrize("between", [0.0, 0.04, 0.1])
def test_p_values_of_healthy_periods_are_uniform(periods: int, between: float) -> None:
    """Values are normal around 0.1, with the sampling error `se` and a relative variation `between` periods."""
    rng, runs = np.random.default_rng(periods), 3_000
    se_RP = 0.004 * np.exp(rng.normal(0.0, 0.2, (runs, periods + 1)))
    value_RP = 0.1 + 0.1 * between * rng.normal(size=(runs, periods + 1)) + se_RP * rng.normal(size=se_RP.shape)
    p_R3 = np.array([_p_values(value_P, se_P) for value_P, se_P in zip(value_RP, se_RP, strict=True)])
    share_3 = (p_R3 < 0.05).mean(axis=0)
    assert (share_3 < 0.068).all(), "too many false alarms"
    assert ((p_R3 < 0.001).mean(axis=0) < 0.003).all(), "evidence depends on the small p-values"
    # A spread below SMALLEST counts as SMALLEST, which makes the p-values larger.
    if between > SMALLEST:
        assert (share_3 > 0.02).all(), "the test would miss changes"


def _p_values(value_P: np.ndarray, se_P: np.ndarray) -> tuple[float, float, float]:
    past = list(zip(value_P[:-1].tolist(), se_P[:-1].tolist(), strict=True))
    forecast = Forecast.of(past, se_P[-1])
    assert forecast is not None
    return forecast.p_below(value_P[-1]), forecast.p_above(value_P[-1]), forecast.p_apart(value_P[-1])


def test_too_few_periods_give_no_forecast() -> None:
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


def test_a_share_that_was_always_zero_may_rise_a_little() -> None:
    always = [(0.0, 0.0)] * 20
    forecast = Forecast.of(always, se=1e-4, smallest=0.005)
    assert forecast is not None
    assert forecast.p_apart(1e-4) > 0.5, "one fallback in ten thousand is normal"
    assert forecast.p_apart(0.05) < 1e-6, "one fallback in twenty is not"
    assert forecast.p_apart(0.0) == 1.0
    # With a standard error of 0.0001, only an increase to 0.002 is significant.
    strict = Forecast.of(always, se=1e-4)
    assert strict is not None and strict.p_apart(1e-4) > 0.1 > 1e-6 > strict.p_apart(0.002)


def test_a_constant_measure_may_move_by_a_little() -> None:
    forecast = Forecast.of([(0.25, 0.0)] * 14, se=0.0)
    assert forecast is not None and forecast.sd == pytest.approx(SMALLEST * 0.25)
    assert forecast.p_apart(0.251) > 0.5 and forecast.p_apart(0.4) < 1e-6


ALIKE = (0.0,) * 7
WEEKENDS = (0.0, 0.0, 0.0, 0.0, 0.0, -0.25, -0.25)
SUNDAYS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.25)
ALL_DIFFER = (-0.1, 0.0, 0.02, 0.05, 0.1, -0.15, -0.25)


def days(rng: np.random.Generator, number: int, effects: Sequence[float], between: float, se: float) -> np.ndarray:
    """Return a row per day: the weekday, the value, which is near 0.1, and its standard error."""
    weekday_P = (rng.integers(7) + np.arange(number)) % 7
    se_P = 0.1 * se * np.exp(rng.normal(0.0, 0.2, number))
    value_P = 0.1 * (1.0 + np.array(effects)[weekday_P]) * (1.0 + between * rng.normal(size=number))
    return np.column_stack([weekday_P, value_P + se_P * rng.normal(size=number), se_P])


def of_last(days_P3: np.ndarray) -> Forecast:
    past = [(value, se) for _, value, se in days_P3[:-1].tolist()]
    forecast = Forecast.of(past, float(days_P3[-1, 2]), weekdays=days_P3[:, 0].astype(int).tolist())
    assert forecast is not None
    return forecast


@pytest.mark.parametrize("periods", [FEWEST, 14, MOST])
@pytest.mark.parametrize("effects", [ALIKE, WEEKENDS, SUNDAYS, ALL_DIFFER], ids=["alike", "weekends", "sundays", "all"])
@pytest.mark.parametrize(("between", "se"), [(0.06, 0.03), (0.0, 0.1)], ids=["days differ", "few users"])
def test_p_of_healthy_days_is_uniform(periods: int, effects: Sequence[float], between: float, se: float) -> None:
    rng, p = np.random.default_rng(periods), []
    for _ in range(1_500):
        made = days(rng, periods + 1, effects, between, se)
        forecast = of_last(made)
        p.append([forecast.p_below(made[-1, 1]), forecast.p_above(made[-1, 1])])
    p_R2 = np.array(p)
    assert ((p_R2 < 0.05).mean(axis=0) < 0.068).all(), "too many false alarms"
    assert ((p_R2 < 0.001).mean(axis=0) < 0.004).all(), "evidence depends on the small p-values"


@pytest.mark.parametrize(
    ("effects", "periods", "share"),
    [(WEEKENDS, 12, 0.9), (WEEKENDS, MOST, 0.97), (SUNDAYS, MOST, 0.97), (ALL_DIFFER, MOST, 0.97)],
)
def test_weekday_effects_hide_no_loss(effects: Sequence[float], periods: int, share: float) -> None:
    """With 10,000 users a day, two weeks of healthy days suffice, or four if all weekdays differ."""
    rng, with_them, without = np.random.default_rng(1), [], []
    for _ in range(300):
        made = days(rng, periods + 1, effects, 0.02, 0.026)
        lost = 0.8 * made[-1, 1]
        with_them.append(of_last(made).p_below(lost))
        plain = Forecast.of([(value, se) for _, value, se in made[:-1].tolist()], float(made[-1, 2]))
        assert plain is not None
        without.append(plain.p_below(lost))
    assert np.mean(np.array(with_them) < 0.02) > share
    assert np.median(with_them) < 0.1 * np.median(without)


def test_a_first_weekend_has_a_wide_forecast() -> None:
    rng = np.random.default_rng(2)
    past = [(0.1 * (1.0 + 0.01 * rng.normal()), 0.001) for _ in range(20)]
    weekdays = [day % 5 for day in range(20)]
    friday, saturday = (Forecast.of(past, 0.001, weekdays=[*weekdays, day]) for day in (4, 5))
    assert friday is not None and saturday is not None
    assert friday.p_below(0.08) < 1e-4 and saturday.mean == pytest.approx(0.1, rel=0.01)
    assert saturday.sd == pytest.approx(WEEKEND * 0.1, rel=0.1) and saturday.p_below(0.02) > 0.05
    once = Forecast.of([*past, (0.05, 0.001)], 0.001, weekdays=[*weekdays, 5, 6])
    assert once is not None and once.mean == pytest.approx(0.05, rel=0.05)
    assert once.sd / once.mean > 1.4 * friday.sd / friday.mean, "one Saturday says little about the weekend"


def test_a_weekday_that_was_never_seen_has_a_wide_forecast() -> None:
    made = days(np.random.default_rng(3), 35, (0.1, 0.0, -0.1, 0.15, -0.15, 0.0, 0.0), 0.01, 0.01)
    seen = made[made[:, 0] != 1]
    tuesday, wednesday = (of_last(np.vstack([seen, [day, 0.1, 0.001]])) for day in (1, 2))
    assert tuesday.sd > 4 * wednesday.sd
    assert wednesday.mean == pytest.approx(0.09, rel=0.03)


def test_weekdays_that_hardly_differ_share_a_forecast() -> None:
    """The forecast keeps nearly all degrees of freedom if all weekdays are alike."""
    made = days(np.random.default_rng(7), MOST + 1, ALIKE, 0.05, 0.001)
    monday, tuesday = (of_last(np.vstack([made[:-1], [day, 0.1, 1e-4]])) for day in (0, 1))
    assert monday.mean == pytest.approx(tuesday.mean, rel=0.03) and monday.degrees > MOST - 9


@given(
    seed=st.integers(0, 10**6),
    number=st.integers(FEWEST + 1, MOST + 10),
    unit=st.floats(1e-3, 1e6),
    kept=st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True),
)
def test_any_weekdays_have_a_forecast_in_any_unit(seed: int, number: int, unit: float, kept: list[int]) -> None:
    rng = np.random.default_rng(seed)
    made = days(rng, number, ALL_DIFFER, 0.05, 0.02)
    made[:, 0] = rng.choice(kept, number)
    made[-1, 0] = rng.integers(7)
    forecast = of_last(made)
    assert 0.0 < forecast.degrees <= min(number - 1, MOST) - 1.0 and math.isfinite(forecast.mean)
    assert forecast.sd >= math.hypot(made[-1, 2], SMALLEST * forecast.mean)
    other = of_last(made * [1.0, unit, unit])
    assert other.mean == pytest.approx(unit * forecast.mean) and other.sd == pytest.approx(unit * forecast.sd)
    assert other.degrees == pytest.approx(forecast.degrees)
