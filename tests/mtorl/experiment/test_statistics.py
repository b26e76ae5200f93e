"""Experiment statistics: the arithmetic, and above all the error rates that the verdict promises."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment.statistics import (
    GuardrailCheck,
    Lift,
    Ratio,
    check_guardrail,
    compare,
    confidence_sequence,
    fixed_interval,
    one_sided_width,
    ratio,
    reach_verdict,
    rho_squared,
    srm_p_value,
)

ALPHA, TIGHTEST_AT = 0.05, 1_000


def users(rng: np.random.Generator, n: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and decisions of n users whose own click rates differ, so that rows are not independent."""
    decisions = 1 + rng.poisson(4, n)
    return rng.binomial(decisions, rng.beta(2 * rate, 2 * (1 - rate), n)).astype(float), decisions.astype(float)


def looks(rng: np.random.Generator, n: int, lift: float, count: int = 20) -> list[Lift]:
    """One experiment looked at `count` times while its users arrive."""
    gain, decisions = users(rng, n, 0.2)
    gain_b, decisions_b = users(rng, n, 0.2 + lift)
    sizes = np.unique(np.geomspace(60, n, count).astype(int))
    return [
        compare(
            ratio(gain_b[:k], decisions_b[:k]), ratio(gain[:k], decisions[:k]), alpha=ALPHA, tightest_at=TIGHTEST_AT
        )
        for k in sizes
    ]


def test_peeking_keeps_the_type_one_error_of_the_confidence_sequence_and_breaks_the_fixed_one() -> None:
    rng = np.random.default_rng(11)
    runs = [looks(rng, 1_000, 0.0) for _ in range(500)]
    always_valid = np.mean([any(not lo <= 0.0 <= hi for lo, hi in (x.ci for x in run)) for run in runs])
    fixed = np.mean([any(not lo <= 0.0 <= hi for lo, hi in (x.ci_fixed for x in run)) for run in runs])
    one_look = np.mean([not run[-1].ci_fixed[0] <= 0.0 <= run[-1].ci_fixed[1] for run in runs])
    assert always_valid <= ALPHA
    assert fixed > 3 * ALPHA, "peeking at a fixed interval should be seen to fail, or this test proves nothing"
    assert abs(one_look - ALPHA) < 0.03


def test_the_sequence_covers_a_true_lift_at_all_looks_together() -> None:
    rng = np.random.default_rng(12)
    runs = [looks(rng, 1_000, 0.03) for _ in range(300)]
    covered = np.mean([all(x.ci[0] <= 0.03 <= x.ci[1] for x in run) for run in runs])
    covered_fixed = np.mean([all(x.ci_fixed[0] <= 0.03 <= x.ci_fixed[1] for x in run) for run in runs])
    assert covered >= 1 - ALPHA
    assert covered_fixed < 0.9


def test_one_sided_bound_is_always_valid_and_tighter_than_two_sided() -> None:
    rng = np.random.default_rng(13)
    crossed = 0
    for _ in range(400):
        run = looks(rng, 1_000, 0.0)
        crossed += any(x.value - one_sided_width(x.se, x.users, alpha=ALPHA, tightest_at=TIGHTEST_AT) > 0 for x in run)
    assert crossed / 400 <= ALPHA
    low, high = confidence_sequence(0.0, 1.0, TIGHTEST_AT, alpha=ALPHA, tightest_at=TIGHTEST_AT)
    assert one_sided_width(1.0, TIGHTEST_AT, alpha=ALPHA, tightest_at=TIGHTEST_AT) < (high - low) / 2


def test_delta_method_agrees_with_a_user_bootstrap() -> None:
    rng = np.random.default_rng(1)
    gain, decisions = users(rng, 2_000, 0.1)
    picks = rng.integers(0, 2_000, (2_000, 2_000))
    spread = (gain[picks].sum(1) / decisions[picks].sum(1)).std()
    assert math.sqrt(ratio(gain, decisions).variance) == pytest.approx(spread, rel=0.06)


def test_known_values_of_the_sequence() -> None:
    assert rho_squared(0.05, 1) == pytest.approx(8.212, abs=5e-3)
    z = fixed_interval(0.0, 1.0, alpha=0.05)[1]
    for share, widening in ((1.0, 1.55), (0.5, 1.57), (0.1, 1.95), (10.0, 1.66)):
        width = confidence_sequence(0.0, 1.0, round(10_000 * share), alpha=0.05, tightest_at=10_000)[1] / z
        assert width == pytest.approx(widening, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 50)), min_size=2, max_size=40),
    scale=st.floats(0.01, 100),
)
def test_ratio_is_weighted_mean_and_scales(data: list[tuple[float, float]], scale: float) -> None:
    numerator, denominator = (np.array(x) for x in zip(*data, strict=True))
    r, scaled = ratio(numerator, denominator), ratio(numerator * scale, denominator)
    assert r.value == pytest.approx(numerator.sum() / denominator.sum())
    assert scaled.value == pytest.approx(r.value * scale, rel=1e-9, abs=1e-12)
    assert scaled.variance == pytest.approx(r.variance * scale**2, rel=1e-6, abs=1e-12)


def test_ratio_without_denominator_is_not_a_number_and_stays_inconclusive() -> None:
    empty = ratio([0.0, 0.0], [0.0, 0.0])
    assert math.isnan(empty.value)
    full = Ratio(users=500, value=0.1, variance=1e-6)
    lift = compare(empty, full, alpha=0.05, tightest_at=100)
    assert reach_verdict(lift, srm_p=1.0).token == "inconclusive"
    with pytest.raises(ValueError, match="one entry a user"):
        ratio([1.0], [1.0, 2.0])


def test_srm() -> None:
    even = {"incumbent": 0.5, "challenger": 0.5}
    assert srm_p_value({"incumbent": 5_000, "challenger": 5_010}, even) > 0.5
    assert srm_p_value({"incumbent": 5_000, "challenger": 4_600}, even) < 0.001
    assert srm_p_value({"incumbent": 990, "challenger": 10}, {"incumbent": 99, "challenger": 1}) == pytest.approx(1.0)
    assert srm_p_value({"incumbent": 10, "ghost": 1}, even) == 0.0
    assert srm_p_value({}, even) == 1.0
    assert srm_p_value({"incumbent": 9}, {"incumbent": 1.0, "challenger": 0.0}) == 1.0


def lift_of(value: float, se: float = 0.001, n: int = 10_000) -> Lift:
    return compare(Ratio(n // 2, 0.1 + value, se**2), Ratio(n // 2, 0.1, 0.0), alpha=0.05, tightest_at=5_000)


@pytest.mark.parametrize(
    ("value", "n", "srm", "token"),
    [
        (0.02, 10_000, 0.5, "ship"),
        (-0.02, 10_000, 0.5, "stop"),
        (0.001, 10_000, 0.5, "inconclusive"),
        (0.02, 60, 0.5, "inconclusive"),
        (0.02, 10_000, 0.0005, "srm"),
    ],
)
def test_tokens(value: float, n: int, srm: float, token: str) -> None:
    verdict = reach_verdict(lift_of(value, n=n), srm_p=srm)
    assert verdict.token == token
    assert "\n" not in verdict.reason


def test_guardrail_states_and_precedence() -> None:
    def check(value: float, direction: Literal["up", "down"], margin: float) -> GuardrailCheck:
        lift = lift_of(value)
        return check_guardrail("cost", lift, direction=direction, margin=margin, alpha=0.05, tightest_at=5_000)

    assert check(0.05, "down", 0.01).state == "breached"
    assert check(-0.05, "down", 0.01).state == "held"
    assert check(-0.05, "up", 0.01).state == "breached"
    assert check(0.01, "down", 0.01).state == "open"
    with pytest.raises(ValueError, match="margin"):
        check(0.0, "down", -0.1)

    win = lift_of(0.02)
    assert reach_verdict(win, srm_p=1.0, guardrails=[check(0.05, "down", 0.01)]).token == "guardrail"
    assert reach_verdict(win, srm_p=1.0, guardrails=[check(0.0, "down", 0.01)]).token == "ship"
    waiting = reach_verdict(win, srm_p=1.0, guardrails=[check(0.01, "down", 0.01)])
    assert waiting.token == "inconclusive" and "cost" in waiting.reason
    assert reach_verdict(win, srm_p=0.0, guardrails=[check(0.05, "down", 0.01)]).token == "srm"


def test_a_win_waits_for_its_time_and_a_broken_assignment_decides_nothing() -> None:
    win, loss = lift_of(0.02), lift_of(-0.02)
    assert reach_verdict(win, srm_p=1.0, hours=5, min_hours=168).token == "inconclusive"
    assert reach_verdict(win, srm_p=1.0, hours=168, min_hours=168).token == "ship"
    assert reach_verdict(loss, srm_p=1.0, hours=5, min_hours=168).token == "stop"
    crossed = reach_verdict(win, srm_p=1.0, crossed_share=0.05)
    assert crossed.token == "inconclusive" and "two arms" in crossed.reason


def test_relative_lift_is_only_shown() -> None:
    assert lift_of(0.02).relative == pytest.approx(0.2)
    nothing = compare(Ratio(100, 0.1, 1e-4), Ratio(100, 0.0, 0.0), alpha=0.05, tightest_at=100)
    assert nothing.relative is None
