"""Tests of the rules that lead from figures to a verdict."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment import messages
from mtorl.experiment.inference.statistics import Lift, confidence_sequence, fixed_interval, one_sided_width
from mtorl.experiment.inference.verdict import (
    ErrorShares,
    GuardrailCheck,
    Verdict,
    check_guardrail,
    leading,
    reach_verdict,
    rules_out,
)
from mtorl.runtime.message import Message
from tests.messages import assert_says

NAN = float("nan")


def lift_of(value: float, se: float = 0.001, arm_users: tuple[float, float] = (5_000.0, 5_000.0)) -> Lift:
    low, high = confidence_sequence(value, se, 10_000, alpha=0.05)
    fixed_low, fixed_high = fixed_interval(value, se, alpha=0.05)
    fixed = (float(fixed_low), float(fixed_high))
    return Lift(10_000.0, value, se, (float(low), float(high)), fixed, value / 0.1, arm_users)


WIN, LOSS, UNKNOWN = lift_of(0.02), lift_of(-0.02), lift_of(0.02, se=NAN)


@pytest.mark.parametrize(
    ("lift", "srm", "token"),
    [
        (WIN, 0.5, "ship"),
        (LOSS, 0.5, "stop"),
        (lift_of(0.001), 0.5, "inconclusive"),
        (UNKNOWN, 0.5, "inconclusive"),
        (lift_of(NAN), 0.5, "inconclusive"),
        (WIN, 0.0005, "srm"),
    ],
)
def test_figures_lead_to_tokens(lift: Lift, srm: float, token: str) -> None:
    verdict = reach_verdict(lift, srm_p=srm)
    assert verdict.token == token
    assert "\n" not in verdict.reason


def test_too_few_users_are_reported() -> None:
    few = reach_verdict(lift_of(0.02, NAN, arm_users=(48.0, 1_062.9)), srm_p=0.5, challenger="vendor")
    assert_says(few.reason, messages.TOO_FEW_USERS, needed=100, challenger="vendor", users=48, others=1_062)


def test_futile_means_that_the_wanted_effect_is_ruled_out() -> None:
    futile = reach_verdict(lift_of(0.001), srm_p=0.5, ruled_out=0.05)
    assert_says(futile.reason, messages.FUTILE, effect=5.0)
    for lift, token in ((WIN, "ship"), (LOSS, "stop"), (UNKNOWN, "inconclusive")):
        assert reach_verdict(lift, srm_p=0.5, ruled_out=0.05).token == token
    waiting = reach_verdict(lift_of(0.001), srm_p=0.5, ruled_out=0.05, hours=1.0, min_hours=2.0)
    assert waiting.token == "inconclusive"
    assert reach_verdict(lift_of(0.001), srm_p=0.5, ruled_out=0.05, with_changed=WIN).token == "inconclusive"


def test_a_wanted_effect_is_ruled_out_only_by_a_bound() -> None:
    assert rules_out(lift_of(-0.01))
    for short in (lift_of(-0.001), lift_of(0.01), lift_of(-0.01, se=NAN), lift_of(NAN)):
        assert not rules_out(short)


def check(lift: Lift, direction: Literal["up", "down"] = "down", margin: float = 0.01) -> GuardrailCheck:
    return check_guardrail("cost", lift, direction=direction, margin=margin, shares=ErrorShares(0.05, 0.05, 0.05))


def test_a_gap_between_shares_of_late_outcomes_blocks_a_verdict() -> None:
    assert reach_verdict(WIN, srm_p=1.0, late_gap=0.03).token == "ship"
    late = reach_verdict(WIN, srm_p=1.0, guardrails=[check(lift_of(0.05))], late_gap=0.12)
    assert_says(late.reason, messages.LATE_GAP, gap=0.12)
    assert reach_verdict(WIN, srm_p=0.0, late_gap=0.12).token == "srm"


@pytest.mark.parametrize(("lift", "token"), [(WIN, "ship"), (LOSS, "stop")])
def test_late_outcomes_block_a_verdict_that_they_change(lift: Lift, token: str) -> None:
    assert reach_verdict(lift, srm_p=1.0, with_late=lift).token == token
    undecided = lift_of(0.001)
    late = reach_verdict(lift, srm_p=1.0, with_late=undecided)
    (low, high), (low_with, high_with) = lift.ci, undecided.ci
    assert_says(late.reason, messages.LATE_OUTCOMES, low_with=low_with, high_with=high_with, low=low, high=high)
    assert reach_verdict(undecided, srm_p=1.0, with_late=lift).reason.code == messages.LATE_OUTCOMES.code


def test_guardrail_states_and_precedence() -> None:
    assert check(lift_of(0.05)).state == "breached"
    assert check(lift_of(-0.05)).state == "held"
    assert check(lift_of(-0.05), "up").state == "breached"
    assert check(lift_of(0.01)).state == "open"
    assert check(lift_of(0.05, se=NAN)).state == "open"

    assert reach_verdict(WIN, srm_p=1.0, guardrails=[check(lift_of(0.05))]).token == "guardrail"
    assert reach_verdict(WIN, srm_p=1.0, guardrails=[check(lift_of(0.0))]).token == "ship"
    waiting = reach_verdict(WIN, srm_p=1.0, guardrails=[check(lift_of(0.01))])
    assert_says(waiting.reason, messages.GUARDRAILS_OPEN, metrics="cost")
    assert reach_verdict(WIN, srm_p=0.0, guardrails=[check(lift_of(0.05))]).token == "srm"


def test_every_verdict_waits_for_the_minimum_run_time() -> None:
    harm = [check(lift_of(0.05))]
    for lift, guardrails, token in ((WIN, [], "ship"), (LOSS, [], "stop"), (WIN, harm, "guardrail")):
        early = reach_verdict(lift, srm_p=1.0, guardrails=guardrails, hours=5, min_hours=168)
        assert_says(early.reason, messages.TOO_EARLY, hours=5, needed=168)
        # A full week may be 167.9 hours, because it ends with the last decision.
        for hours in (167.9, 168):
            assert reach_verdict(lift, srm_p=1.0, guardrails=guardrails, hours=hours, min_hours=168).token == token
    assert reach_verdict(WIN, srm_p=0.0, hours=5, min_hours=168).token == "srm"


def test_no_verdict_if_users_change_arms() -> None:
    crossed = reach_verdict(WIN, srm_p=1.0, crossed_share=0.05)
    assert crossed.token == "inconclusive"
    assert_says(crossed.reason, messages.NOT_STICKY, share=0.05)


@given(alpha=st.floats(0.001, 0.2), challengers=st.integers(1, 4), guardrails=st.integers(0, 20))
def test_the_error_shares_add_up_to_alpha(alpha: float, challengers: int, guardrails: int) -> None:
    shares = ErrorShares.of(alpha, challengers, guardrails)
    not_better = shares.primary + guardrails * shares.breached
    better = shares.primary / 2 + shares.held + (guardrails - 1) * shares.breached
    assert challengers * not_better == pytest.approx(alpha) and better <= not_better


def test_a_guardrail_takes_a_tenth_of_the_error() -> None:
    assert ErrorShares.of(0.05, 1, 0).primary == 0.05
    shares = ErrorShares.of(0.05, challengers=1, guardrails=1)
    assert (shares.primary, shares.breached) == (pytest.approx(0.045), pytest.approx(0.005))
    found = check_guardrail("cost", lift_of(0.01), direction="down", margin=0.0, shares=shares)
    assert found.upper == 0.01 + one_sided_width(0.001, 10_000, alpha=shares.held)
    assert found.lower == 0.01 - one_sided_width(0.001, 10_000, alpha=shares.breached)


def test_a_challenger_that_ships_leads_then_an_inconclusive_one() -> None:
    def leader(**tokens: str) -> str:
        lifts = {"b": lift_of(0.01), "c": lift_of(0.02), "d": lift_of(NAN)}
        verdicts = {name: Verdict(Message("", token)) for name, token in tokens.items()}
        return leading(verdicts, {name: lifts[name] for name in tokens})

    assert leader(b="ship", c="inconclusive") == "b"
    assert leader(b="ship", c="ship") == "c"
    assert leader(b="inconclusive", c="stop") == "b"
    assert leader(b="stop", c="guardrail") == "c"
    assert leader(b="inconclusive", d="inconclusive") == "b"
    assert leader(d="inconclusive") == "d"
