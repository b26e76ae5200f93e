"""Tests that the gate decides rightly for each estimate and gives the right reason."""

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.evaluation import messages
from mtorl.evaluation.gate import MARGIN, gate, gate_report
from mtorl.evaluation.value_difference import ARMS, value_difference
from mtorl.runtime.errors import InputError
from tests.messages import assert_says
from tests.mtorl.evaluation.bandit import CHALLENGER, EXPOSE, INCUMBENT, SHOW, estimate, on_log, opportunities


def test_the_gate_refuses_a_policy_that_the_log_can_not_value() -> None:
    """Importance weights can have a mean of 1 even if the log never shows some actions."""
    kind, log = opportunities(3000, 5)
    everything = np.ones_like(EXPOSE)
    value = value_difference(on_log(CHALLENGER, kind, everything), on_log(INCUMBENT, kind, SHOW > 0), log, 0.5, 0)
    exposing = CHALLENGER.sum() / 2
    assert value["impossible"]["challenger"] == pytest.approx(CHALLENGER[0, 2] / 2 / exposing, abs=0.01)
    decision, reason = gate({**value, "impossible": {"challenger": 0.2, "incumbent": 0.0}})
    assert decision == "reject"
    assert_says(reason, messages.IMPOSSIBLE, arm="challenger", share=0.2)
    few = gate({**value, "impossible": {"challenger": 0.04, "incumbent": 0.0}})[1]
    assert few.code != messages.IMPOSSIBLE.code


@cache
def sure() -> dict[str, Any]:
    return json.loads(json.dumps(estimate(3000, seed=5)))


def found(difference: float, low: float, high: float, value: float = 1.0) -> dict[str, Any]:
    return sure() | {"difference": difference, "difference_ci": [low, high], "incumbent": value}


@pytest.mark.parametrize(
    ("estimated", "external", "own"),
    [
        ((0.03, 0.01, 0.05), "promote", "promote"),
        ((0.03, -0.0199, 0.08), "reject", "promote"),
        ((0.03, -0.0201, 0.08), "reject", "experiment"),
        # The allowed loss is a share of the incumbent's value, which is smaller here.
        ((0.03, -0.0199, 0.08, 0.5), "reject", "experiment"),
        ((0.0, -0.001, 0.001), "reject", "reject"),
        ((-0.001, -0.01, 0.2), "reject", "reject"),
        ((math.nan, math.nan, math.nan), "reject", "reject"),
        ((0.03, math.nan, math.nan), "reject", "reject"),
    ],
)
def test_external_incumbents_must_be_beaten_and_own_models_matched(
    estimated: tuple[float, ...], external: str, own: str
) -> None:
    assert gate(found(*estimated))[0] == external
    assert gate(found(*estimated), margin=MARGIN)[0] == own
    for kind, decision in (("external", external), ("own_model", own)):
        evaluation = {"value": found(*estimated), "incumbent_is": kind, "valued_on": "opportunities"}
        report = gate_report(evaluation)
        assert report.decision == decision and report.code == gate(found(*estimated), margin=report.margin)[1].code
        lost = gate_report({**evaluation, "lost_channel": {"channel": "video", "expected": 0.001, "logged": 0.2}})
        assert (lost.decision, lost.code) == ("reject", "lost-channel")
        wrong = gate_report({**evaluation, "overexposed_channel": {"channel": "tv", "count": 99, "expected": 50.2}})
        assert (wrong.decision, wrong.code) == ("reject", "overexposed")
    assert gate(found(*estimated), min_lift=-1)[0] == ("reject" if math.isnan(estimated[1]) else "promote")


@pytest.mark.parametrize(("own_decisions", "code"), [(0, "wrong-propensities"), (499, "few-decisions")])
def test_too_few_own_decisions_explain_wrong_weights(own_decisions: int, code: str) -> None:
    value = {**found(0.03, 0.01, 0.05), "mean_weight": dict.fromkeys(ARMS, 1.3)}
    value["mean_weight_ci"] = {arm: [1.2, 1.4] for arm in ARMS}
    report = gate_report(
        {"value": value, "incumbent_is": "own_model", "valued_on": "touchpoints", "own_decisions": own_decisions}
    )
    assert (report.decision, report.code) == ("reject", code)


@pytest.mark.parametrize("margin", [2.0, -0.02, math.nan])
def test_a_margin_is_a_share(margin: float) -> None:
    """A margin of 2, meant as 2 %, would promote nearly any challenger."""
    evaluation = {"value": found(0.03, -0.5, 0.6), "incumbent_is": "own_model", "valued_on": "opportunities"}
    with pytest.raises(InputError, match="margin"):
        gate_report(evaluation, margin=margin)


@given(
    difference=st.floats(-1, 1),
    below=st.floats(0, 1),
    above=st.floats(0, 1),
    value=st.floats(-1, 1),
    margin=st.none() | st.floats(0, 10),
)
def test_certain_losses_never_pass_and_certain_gains_always_do(
    difference: float, below: float, above: float, value: float, margin: float | None
) -> None:
    estimated = found(difference, difference - below, difference + above, value)
    decision = gate(estimated, margin=margin)[0]
    if difference + above < 0:
        assert decision == "reject"
    if decision != "reject":
        assert difference > 0
    if gate(estimated)[0] == "promote" or (margin == 0 and decision == "promote"):
        assert decision == "promote" and difference - below > 0


@pytest.mark.parametrize(
    ("changed", "decision"),
    [
        ({"rows": 2_000, "ess": {"challenger": 101.0, "incumbent": 500.0}}, "promote"),
        ({"rows": 2_000, "ess": {"challenger": 99.0, "incumbent": 500.0}}, "reject"),  # below 100
        ({"rows": 2_000, "ess": {"challenger": 5_000.0, "incumbent": 50.0}}, "reject"),
        # less than 1 % of the rows
        ({"rows": 1_000_000, "ess": {"challenger": 9_000.0, "incumbent": 9_000.0}}, "reject"),
        # too few users, however many rows there are
        ({"users": 19}, "reject"),
    ],
)
def test_the_gate_requires_enough_users_and_effective_rows(changed, decision):
    judged, reason = gate({**sure(), **changed})
    too_few = reason.code in (messages.TEST_USERS.code, messages.EFFECTIVE_SAMPLE.code)
    assert judged == decision and too_few == (decision == "reject")


def test_a_mean_weight_off_by_chance_is_no_refusal():
    value = sure()
    by_chance = {"mean_weight": {"challenger": 1.3, "incumbent": 1.0}}
    by_chance["mean_weight_ci"] = {"challenger": [0.7, 1.9], "incumbent": [0.99, 1.01]}
    assert gate({**value, **by_chance})[0] == "promote"
    by_chance["mean_weight_ci"]["challenger"] = [1.2, 1.4]
    assert gate({**value, **by_chance})[0] == "reject"
