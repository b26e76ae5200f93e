import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtorl.policy.decision import (
    LEAST_COST,
    Forecast,
    PolicyParams,
    action_probabilities,
    decide,
    expected_utility,
    utility_scale,
)

LOGITS = np.log(np.array([[0.7, 0.2, 0.1]]))
GAIN = np.array([[0.1, 0.3, 0.2]])
COST = np.array([[0.5, 1.0, 2.0]])


def repeat(array: np.ndarray, rows: int) -> np.ndarray:
    return np.repeat(array, rows, axis=0)


@pytest.mark.parametrize("beta", [0.0, 2.0])  # 0 means the action head alone
def test_tilt_matches_its_formula(beta):
    params = PolicyParams(advantage_weight=beta, exploration=0.2, price=0.1, utility_scale=0.05)
    utility = GAIN - 0.1 * COST
    tilted = np.array([[0.7, 0.2, 0.1]]) * np.exp(beta * utility / 0.05)
    expected = 0.8 * tilted / tilted.sum() + 0.2 / 3
    np.testing.assert_allclose(decide(Forecast(LOGITS, GAIN, COST), params, [0.0]).probs_BC, expected, rtol=1e-12)


def test_action_probabilities_are_those_of_decide():
    params = PolicyParams(advantage_weight=1.0, price=0.2, utility_scale=0.1)
    arguments = Forecast(repeat(LOGITS, 3), repeat(GAIN, 3), repeat(COST, 3)), params
    decision = decide(*arguments, [0.0, 0.5, 0.9])
    probs, expose = action_probabilities(*arguments)
    np.testing.assert_array_equal(probs, decision.probs_BC)
    np.testing.assert_array_equal(expose[np.arange(3), decision.channel_B], decision.expose_B)


def test_propensity_is_the_frequency_of_the_chosen_channel():
    rows = 40_000
    params = PolicyParams(advantage_weight=1.0, exploration=0.3, utility_scale=0.1)
    decision = decide(
        Forecast(repeat(LOGITS, rows), repeat(GAIN, rows), repeat(COST, rows)),
        params,
        np.random.default_rng(0).random(rows),
    )
    frequency = np.bincount(decision.channel_B, minlength=3) / rows
    error = np.sqrt(decision.probs_BC[0] * (1 - decision.probs_BC[0]) / rows)
    assert (np.abs(frequency - decision.probs_BC[0]) < 4 * error).all()
    np.testing.assert_array_equal(decision.propensity_B, decision.probs_BC[0][decision.channel_B])


def test_expose_only_if_the_gain_outweighs_the_cost():
    params = PolicyParams(exploration=1.0, price=0.2)
    decision = decide(Forecast(repeat(LOGITS, 3), repeat(GAIN, 3), repeat(COST, 3)), params, [0.0, 0.5, 0.99])
    assert decision.channel_B.tolist() == [0, 1, 2]
    assert decision.expose_B.tolist() == [True, True, False]  # utilities 0.0, 0.1, -0.2
    np.testing.assert_allclose(decision.utility_B, [0.0, 0.1, -0.2], atol=1e-12)
    np.testing.assert_allclose(decision.expected_gain_B, [0.1, 0.3, 0.2])
    np.testing.assert_allclose(decision.expected_cost_B, [0.5, 1.0, 2.0])


def test_a_current_price_replaces_the_policys_own():
    params = PolicyParams(exploration=0.0, price=0.0)
    assert decide(Forecast(LOGITS, GAIN, COST), params, [0.1]).expose_B[0]
    for price in (0.3, [[0.3]], [[0.3, 0.0, 0.0]]):
        assert not decide(Forecast(LOGITS, GAIN, COST), params, [0.1], price_BC=price).expose_B[0]


def test_a_negative_gain_estimate_counts_as_zero():
    decision = decide(Forecast(LOGITS, [[-0.01, -0.5, -0.2]], COST), PolicyParams(), [0.5])
    assert decision.expected_gain_B[0] == 0.0
    assert decision.expose_B[0]


@given(
    logits=hnp.arrays(np.float64, (4, 5), elements=st.floats(-50, 50)),
    gain=hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 10)),
    cost=hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 10)),
    allowed=hnp.arrays(np.bool_, (4, 5)),
    always=st.integers(0, 4),
    u=hnp.arrays(np.float64, 4, elements=st.floats(0, 1, exclude_max=True)),
    beta=st.floats(0, 20),
    epsilon=st.floats(0, 1),
    price=st.floats(0, 5),
)
def test_invariants(logits, gain, cost, allowed, always, u, beta, epsilon, price):
    allowed[:, always] = True
    params = PolicyParams(beta, epsilon, price, utility_scale=0.5)
    decision = decide(Forecast(logits, gain, cost), params, u, allowed)
    np.testing.assert_allclose(decision.probs_BC.sum(axis=1), 1.0, rtol=1e-12)
    assert (decision.probs_BC[~allowed] == 0).all()
    floor = epsilon / allowed.sum(axis=1, keepdims=True)
    assert (decision.probs_BC >= np.where(allowed, floor * (1 - 1e-12), 0)).all()
    assert allowed[np.arange(4), decision.channel_B].all()
    assert (decision.propensity_B > 0).all()
    assert ((decision.utility_B >= 0) == decision.expose_B).all()


def test_u_just_below_one_stays_inside_the_candidates():
    logits = np.random.default_rng(1).normal(size=(500, 7))
    forecast = Forecast(logits, np.zeros_like(logits), np.ones_like(logits))
    allowed = np.tile([False, True, True, True, False, False, False], (500, 1))
    for u, channel in ((np.nextafter(1.0, 0.0), 3), (0.0, 1)):
        assert set(decide(forecast, PolicyParams(), np.full(500, u), allowed).channel_B) == {channel}


def test_extreme_logits_do_not_overflow():
    decision = decide(Forecast([[1e4, -1e4, 0.0]], GAIN, COST), PolicyParams(exploration=0.0), [0.999])
    np.testing.assert_allclose(decision.probs_BC, [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits_BC": [[np.nan, 0, 0]]}, "logits_BC must be finite"),
        ({"logits_BC": [[0.0, 0.0]]}, "logits_BC must have shape"),
        ({"gain_BC": [[np.inf, 0, 0]]}, "gain_BC must be finite"),
        ({"gain_BC": [0.1, 0.2, 0.3]}, "gain_BC must have shape"),
        ({"cost_BC": [[-0.1, 0, 0]]}, "cost_BC must be finite and >= 0"),
        ({"future_BC2": [[0.1, 0.2, 0.3]]}, "future_BC2 must have shape"),
        ({"future_BC2": np.full((1, 3, 2), np.nan)}, "future_BC2 must be finite"),
        ({"price_BC": np.nan}, "price_BC must be finite"),
        ({"u_B": [1.0]}, r"u_B must lie in \[0, 1\)"),
        ({"u_B": [0.1, 0.2]}, "u_B must have shape"),
        ({"candidates_BC": [[False, False, False]]}, "row 0 has no candidate"),
        ({"candidates_BC": [[True]]}, "candidates_BC must have shape"),
        ({"price_BC": np.ones((2, 3))}, "price_BC must broadcast"),
    ],
)
def test_invalid_arrays_are_refused(change, message):
    forecast = {"logits_BC": LOGITS, "gain_BC": GAIN, "cost_BC": COST, "future_BC2": None}
    arguments = {"u_B": [0.5], "params": PolicyParams()} | {k: v for k, v in change.items() if k not in forecast}
    forecast |= {k: v for k, v in change.items() if k in forecast}
    with pytest.raises(ValueError, match=message):
        decide(Forecast(**forecast), **arguments)


def test_the_future_value_counts_but_never_makes_a_cost_negative():
    future_BC2 = np.array([[[0.2, 0.1], [0.0, -0.02], [-0.1, -100.0]]])
    forecast = Forecast(LOGITS, GAIN, COST, future_BC2)
    utility_BC = expected_utility(forecast, 0.5)
    paid_BC = COST[:, :2] + future_BC2[:, :2, 1]
    np.testing.assert_allclose(utility_BC[:, :2], GAIN[:, :2] + future_BC2[:, :2, 0] - 0.5 * paid_BC)
    assert utility_BC[0, 2] == pytest.approx(GAIN[0, 2] - 0.1 - 0.5 * LEAST_COST * COST[0, 2])
    assert not decide(forecast, PolicyParams(), [0.5], price_BC=1e6).expose_BC.any()
    decided = decide(forecast, PolicyParams(), [0.5])
    assert decided.expected_gain_B == GAIN[0, decided.channel_B], "only the exposure's own gain"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("advantage_weight", -1.0), ("exploration", 1.5), ("exploration", "0.1"), ("price", -0.1), ("price", np.inf)),
        *(("utility_scale", 0.0), ("temperature", 1.0)),
    ],
)
def test_policy_params_name_the_field_at_fault(field, value):
    with pytest.raises(ValueError, match=field):
        PolicyParams(**{field: value})


def test_utility_scale_is_the_spread_between_channels_not_between_users():
    gain = np.array([[0.0, 1.0], [10.0, 11.0]])
    forecast = Forecast(gain, gain, np.zeros_like(gain))
    assert utility_scale(forecast) == pytest.approx(0.5)
    future_BC2 = np.stack([gain, gain], axis=-1)
    assert utility_scale(forecast._replace(future_BC2=future_BC2)) == pytest.approx(1.0), "includes the future value"
    assert utility_scale(Forecast(*[np.ones((3, 2))] * 3)) == 1.0
