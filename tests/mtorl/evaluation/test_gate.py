"""What the gate makes of an estimate."""

import json

import numpy as np
import pytest

from mtorl.evaluation.gate import gate
from mtorl.evaluation.logged_rows import LoggedRows
from mtorl.evaluation.value_difference import value_difference
from tests.mtorl.evaluation.bandit import (
    CHALLENGER,
    EXPOSE,
    INCUMBENT,
    LOGGING,
    SHOW,
    bandit,
    estimate,
    on_log,
    opportunities,
)


def test_the_gate_refuses_a_policy_that_the_log_can_not_value() -> None:
    """A mean weight of one does not say that the log has seen the like."""
    kind, log = opportunities(3000, 5)
    everything = np.ones_like(EXPOSE)
    value = value_difference(on_log(CHALLENGER, kind, everything), on_log(INCUMBENT, kind, SHOW > 0), log, 0.5, 0)
    exposing = CHALLENGER.sum() / 2
    assert value["impossible"]["challenger"] == pytest.approx(CHALLENGER[0, 2] / 2 / exposing, abs=0.01)
    decision, reason = gate({**value, "impossible": {"challenger": 0.2, "incumbent": 0.0}})
    assert decision == "reject" and "20% of its exposures are of a kind that no policy of the log could make" in reason
    assert "could make" not in gate({**value, "impossible": {"challenger": 0.04, "incumbent": 0.0}})[1]


def test_gate_promotes_on_the_lower_bound():
    value = estimate(3000, seed=5)
    decision, reason = gate(value)
    assert decision == "promote"
    assert "all above 0" in reason
    low, _ = value["difference_ci"]
    assert gate(value, min_lift=low * 1.01)[0] == "reject"
    assert gate(json.loads(json.dumps(value)), min_lift=low * 0.99)[0] == "promote"


@pytest.mark.parametrize(
    ("changed", "decision"),
    [
        ({"rows": 2_000, "ess": {"challenger": 101.0, "incumbent": 500.0}}, "promote"),
        ({"rows": 2_000, "ess": {"challenger": 99.0, "incumbent": 500.0}}, "reject"),  # 100 however short the log
        ({"rows": 2_000, "ess": {"challenger": 5_000.0, "incumbent": 50.0}}, "reject"),
        ({"rows": 1_000_000, "ess": {"challenger": 9_000.0, "incumbent": 9_000.0}}, "reject"),  # under 1 %
        ({"users": 19}, "reject"),  # whatever rows there are
    ],
)
def test_gate_wants_enough_users_and_effective_rows(changed, decision):
    found, reason = gate({**estimate(3000, seed=5), **changed})
    assert found == decision and ("too little" in reason) == (decision == "reject")


def test_gate_refuses_propensities_that_do_not_describe_the_log():
    """A log whose recorded propensities ignore that channels went to the users they suit."""
    kind, log = bandit(3000, 5)
    wrong = LoggedRows(log.channel_B, LOGGING.mean(axis=0)[log.channel_B] ** 2, log.gain_B, log.cost_B, log.users_B)
    value = value_difference(on_log(CHALLENGER, kind), on_log(INCUMBENT, kind), wrong, 0.5, 0)
    decision, reason = gate(value)
    assert decision == "reject"
    assert "propensities do not describe the log" in reason


def test_a_mean_weight_off_by_chance_is_no_refusal():
    value = estimate(3000, seed=5)
    by_chance = {"mean_weight": {"challenger": 1.3, "incumbent": 1.0}}
    by_chance["mean_weight_ci"] = {"challenger": [0.7, 1.9], "incumbent": [0.99, 1.01]}
    assert gate({**value, **by_chance})[0] == "promote"
    by_chance["mean_weight_ci"]["challenger"] = [1.2, 1.4]
    assert gate({**value, **by_chance})[0] == "reject"
