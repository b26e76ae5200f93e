"""Tests that off-policy estimates of the difference of two policies are right in a small bandit."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.gate import gate
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.evaluation.messages import WRONG_PROPENSITIES
from mtorl.evaluation.value_difference import _widened, value_difference
from tests.mtorl.evaluation.bandit import (
    CHALLENGER,
    COST,
    EXPOSE,
    GAIN,
    INCUMBENT,
    LOGGING,
    SHOW,
    C,
    bandit,
    estimate,
    models,
    on_log,
    opportunities,
    true_value,
)


@pytest.mark.parametrize("budget_share", [0.5, 2.0])
def test_intervals_cover_the_true_value(budget_share):
    everything = np.ones_like(EXPOSE)
    true = {
        "challenger": true_value(CHALLENGER, EXPOSE, budget_share),
        "incumbent": true_value(INCUMBENT, everything, budget_share),
    }
    true["difference"] = true["challenger"] - true["incumbent"]
    runs = [estimate(150, seed, budget_share, resamples=200) for seed in range(100)]
    for name, value in true.items():
        covered = np.mean([low <= value <= high for low, high in (run[f"{name}_ci"] for run in runs)])
        assert covered >= 0.88, name
        assert np.mean([run[name] for run in runs]) == pytest.approx(value, abs=0.004)


def test_the_logging_policy_has_the_logged_value():
    kind, log = bandit(300, 0)
    same = on_log(LOGGING, kind)
    value = value_difference(same, same, log, 1.0, 0, resamples=50)
    assert value["challenger"] == pytest.approx(log.gain_B.mean())
    assert value["cost_per_opportunity"]["challenger"] == pytest.approx(log.cost_B.mean())
    assert value["budget_per_opportunity"] == pytest.approx(log.cost_B.mean())
    assert value["difference"] == 0.0
    assert value["difference_ci"] == [0.0, 0.0]
    for name in ("ess_share", "overlap", "mean_weight"):
        assert value[name] == pytest.approx({"challenger": 1.0, "incumbent": 1.0})
    again = value_difference(same, same, log, 1.0, 0, resamples=50)
    assert json.loads(json.dumps(value, allow_nan=False)) == value == again


def test_higher_spend_alone_adds_no_value():
    kind, log = bandit(300, 0)
    half = np.random.default_rng(1).random(len(kind)) < 0.5
    thrifty = PolicyOnLog(LOGGING[kind], np.repeat(half[:, None], C, axis=1))
    spender = on_log(LOGGING, kind)
    value = value_difference(spender, thrifty, log, 0.25, 0, resamples=200)
    assert value["gain_per_opportunity"]["challenger"] > 1.5 * value["gain_per_opportunity"]["incumbent"]
    low, high = value["difference_ci"]
    assert low < 0 < high


def test_abstaining_counts_as_zero():
    kind, log = bandit(300, 0)
    never = PolicyOnLog(LOGGING[kind], np.zeros((len(kind), C), dtype=bool))
    value = value_difference(never, on_log(LOGGING, kind), log, 1.0, 0)
    assert value["challenger"] == 0.0
    assert value["cost_per_opportunity"]["challenger"] == 0.0
    assert value["difference"] == pytest.approx(-log.gain_B.mean())


def test_overlap_is_the_share_of_exposures_that_the_log_also_makes():
    value = estimate(20_000, seed=3, resamples=2)
    exposing = CHALLENGER * EXPOSE
    distance = 0.5 * np.abs(INCUMBENT - LOGGING).sum(1).mean()
    assert value["overlap"]["challenger"] == pytest.approx(
        np.minimum(exposing, LOGGING).sum() / exposing.sum(), abs=0.01
    )
    assert value["overlap"]["incumbent"] == pytest.approx(1 - distance, abs=0.01)
    assert value["mean_weight"] == pytest.approx({"challenger": 1.0, "incumbent": 1.0}, abs=0.01)


@pytest.mark.parametrize("error", [None, 0.0, 0.2], ids=["no model", "right model", "wrong model"])
def test_values_are_right_if_exposures_depend_on_the_draw(error: float | None) -> None:
    allowed = np.array([[True, True, False], [True, True, True]])  # the exposures that the log can value
    exposed = LOGGING * (SHOW > 0)
    drawn = (LOGGING * COST).sum(axis=1).mean() if error is not None else (exposed * COST).sum() / exposed.sum()
    exposing = CHALLENGER * allowed
    gain, cost = (exposing * GAIN).sum(axis=1).mean(), (exposing * COST).sum(axis=1).mean()
    # Without a model, only costs of exposures that can occur in the log are known.
    true = gain * min(1.0, 0.5 * drawn / cost)
    runs = []
    for seed in range(60):
        kind, log = opportunities(300, seed)
        challenger, incumbent = on_log(CHALLENGER, kind, allowed), on_log(INCUMBENT, kind, SHOW > 0)
        forecasts = [] if error is None else models(kind, error)
        runs.append(value_difference(challenger, incumbent, log, 0.5, seed, forecasts, resamples=200))
    assert np.mean([low <= true <= high for low, high in (run["challenger_ci"] for run in runs)]) >= 0.88
    assert np.mean([run["challenger"] for run in runs]) == pytest.approx(true, abs=0.006)
    assert np.mean([run["mean_weight"]["challenger"] for run in runs]) == pytest.approx(1.0, abs=0.02)
    assert {run["impossible"]["challenger"] for run in runs} == {0.0}


def test_a_right_model_corrects_wrong_probabilities() -> None:
    kind, log = opportunities(4000, 3, show=np.ones((2, C)))
    others = LOGGING[1 - kind, log.channel_B]
    wrong = LoggedRows(log.channel_B, others, log.gain_B, log.cost_B, log.users_B)
    policy, true = on_log(CHALLENGER, kind), (CHALLENGER * GAIN).sum(axis=1).mean()
    plain = value_difference(policy, policy, wrong, 100.0, 0, resamples=10)
    helped = value_difference(policy, policy, wrong, 100.0, 0, models(kind, 0.0), resamples=10)
    assert abs(helped["challenger"] - true) < 0.01 < abs(plain["challenger"] - true)


RARELY = np.array([[1.0, 1.0, 0.004], [0.004, 1.0, 1.0]])
"""Exposure probabilities by kind of user and channel. An exposure at .004 has an importance weight of at least 250."""


@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.15, -0.15), (0.15, -0.05), (-0.05, 0.15), (0.1, 0.0)])
def test_rare_exposures_are_left_to_forecasts(errors: tuple[float, float]) -> None:
    """The two forecasts of the rare gains differ, and the interval must contain every truth between them."""
    everything = np.ones_like(EXPOSE)
    true = true_value(CHALLENGER, everything, 100.0) - true_value(INCUMBENT, RARELY > 0.5, 100.0)
    runs, plain = [], []
    for seed in range(40):
        kind, log = opportunities(300, seed, RARELY)
        policies = on_log(CHALLENGER, kind, everything), on_log(INCUMBENT, kind, RARELY > 0.5)
        runs.append(value_difference(*policies, log, 100.0, seed, models(kind, *errors), resamples=100))
        plain.append(value_difference(*policies, log, 100.0, seed, models(kind, 0.0), resamples=100))
    left = CHALLENGER[0, 2] + CHALLENGER[1, 0]  # both kinds of users are equally likely
    covered = [run["difference_ci"][0] <= true <= run["difference_ci"][1] for run in runs]
    assert np.mean(covered) >= 0.9
    if errors == (0.0, 0.0):
        return
    assert {run["largest_weight"] for run in runs} <= {3.0, 5.0, 10.0, 20.0, 50.0}
    assert {run["largest_weight"] for run in plain} == {None}
    assert np.mean([run["forecast"]["challenger"] for run in runs]) == pytest.approx(left / 2, abs=0.01)
    assert {run["forecast"]["incumbent"] for run in runs} == {0.0}
    found, noisy = (np.array([run["difference"] for run in some]) for some in (runs, plain))
    assert found.std() < 0.5 * np.nanstd(noisy)
    assert found.mean() == pytest.approx(true + sum(errors) / 2 * left / 2, abs=0.01), "uses the models' mean"
    doubt = abs(errors[0] - errors[1]) / 2 * left / 2
    assert np.mean([run["doubt"] for run in runs]) == pytest.approx(doubt, rel=0.1)
    assert np.mean([run["mean_weight"]["challenger"] for run in runs]) == pytest.approx(1.0, abs=0.02)


def test_at_most_a_quarter_is_left_to_forecasts() -> None:
    kind, log = opportunities(300, 0, RARELY)
    rare = np.where(RARELY < 0.5, 0.8, 0.1)
    policies = on_log(rare, kind), on_log(INCUMBENT, kind, RARELY > 0.5)
    value = value_difference(*policies, log, 100.0, 0, models(kind, 0.01, -0.01), resamples=100)
    assert value["largest_weight"] is None and value["forecast"] == {"challenger": 0.0, "incumbent": 0.0}


@settings(max_examples=30)
@given(st.floats(0.0, 4.0), st.floats(-1.0, 1.0), st.integers(0, 1000))
def test_an_interval_is_valid_for_any_error_up_to_the_doubt(doubt: float, share: float, seed: int) -> None:
    """The estimates are normal, with a mean error of `share * doubt`."""
    draws = np.append(0.0, np.random.default_rng(seed).normal(size=4000))
    estimates = np.random.default_rng(seed + 1).normal(doubt * share, 1.0, size=4000)
    for noise in (0.0, 1.0):
        low, high = _widened(draws, doubt, noise)
        assert np.mean(estimates + low > 0) <= 0.04 and np.mean(estimates + high < 0) <= 0.04, "errors on each side"
    narrow, wide = _widened(draws, doubt, 0.0), _widened(draws, doubt, 2.0)
    assert wide == pytest.approx([-1.96 * 2 - doubt, 1.96 * 2 + doubt]) and wide[0] < narrow[0] < narrow[1] < wide[1]


def explored(random: np.random.Generator, rows: int, rate: float, real: float = 0.05) -> LoggedRows:
    """Return decisions that logged 0.025 for the second channel, whose true probability is `real / 2`."""
    probs = np.tile([0.975, 0.025], (rows, 1))
    channel = (random.random(rows) < real / 2).astype(int)
    gain = (random.random(rows) < rate).astype(float)
    exposure = Exposure(np.ones(rows, bool), np.ones(rows), probs)
    return LoggedRows(channel, probs[np.arange(rows), channel], gain, np.ones(rows), np.arange(rows) // 2, exposure)


@pytest.mark.parametrize("rate", [0.1, 0.02, 0.005])
def test_few_gains_do_not_prove_a_difference(rate: float) -> None:
    promoted = 0
    for seed in range(100):
        random, rows = np.random.default_rng(seed), 2000
        log = explored(random, rows, rate)
        other = random.random(rows) < 0.1
        policies = [
            PolicyOnLog.always_exposing(np.where(differs[:, None], [0.0, 1.0], [1.0, 0.0]))
            for differs in (other, np.zeros(rows, bool))
        ]
        forecasts = [ExpectedOutcomes(np.full((rows, 2), rate * of), np.ones((rows, 2))) for of in (1.0, 1.0001)]
        value = value_difference(*policies, log, 100.0, seed, forecasts, resamples=100)
        promoted += gate(value)[0] == "promote"
    assert promoted <= 7


def test_disagreement_about_costs_is_doubt_if_the_budget_binds() -> None:
    kind, log = opportunities(300, 1, RARELY)
    policies = on_log(CHALLENGER, kind, np.ones_like(EXPOSE)), on_log(INCUMBENT, kind, RARELY > 0.5)
    gains, costs = GAIN[kind], np.broadcast_to(COST, GAIN[kind].shape)
    forecasts = [ExpectedOutcomes(gains, costs * of) for of in (0.7, 1.3)]
    binding, free = (value_difference(*policies, log, of, 0, forecasts, resamples=50) for of in (0.3, 100.0))
    assert binding["doubt"] > 0.001 and free["doubt"] == pytest.approx(0.0, abs=1e-12)


def test_wrong_probabilities_of_exploration_are_detected() -> None:
    seen = {0.3: 0, 0.05: 0}
    for seed in range(10):
        for real in seen:
            rows = 6000
            log = explored(np.random.default_rng(seed), rows, 0.2, real=real)
            mixed = [PolicyOnLog.always_exposing(np.tile([1 - p, p], (rows, 1))) for p in (0.15, 0.1)]
            forecasts = [ExpectedOutcomes(np.full((rows, 2), of), np.ones((rows, 2))) for of in (0.2, 0.201)]
            value = value_difference(*mixed, log, 100.0, seed, forecasts, resamples=100)
            assert value["largest_weight"] is not None
            seen[real] += gate(value)[1].code == WRONG_PROPENSITIES.code
    assert seen == {0.3: 10, 0.05: 0}


@pytest.mark.parametrize(
    ("exposed", "probability", "message"),
    [
        ([True, False], [1.5, 1.0], r"probability_B must lie in \[0, 1\]"),
        ([True, False], [0.0, 1.0], "was exposed that could not have been"),
    ],
)
def test_inconsistent_exposures_are_refused(exposed: list, probability: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exposure = Exposure(np.array(exposed), np.array(probability), np.full((2, 3), 0.3))
        LoggedRows(np.zeros(3, int), np.full(3, 0.5), np.ones(3), np.ones(3), np.arange(3), exposure)


def test_a_policy_far_from_the_log_is_rejected():
    rows = 500
    probs = np.tile([0.0, 1.0], (rows, 1))
    far = PolicyOnLog(probs, np.ones((rows, 2), bool))
    near = PolicyOnLog(np.full((rows, 2), 0.5), np.ones((rows, 2), bool))
    log = LoggedRows(np.zeros(rows, int), np.full(rows, 0.9), np.ones(rows), np.ones(rows), np.arange(rows))
    value = value_difference(far, near, log, 1.0, 0, resamples=10)
    assert value["ess"]["challenger"] == 0
    assert np.isnan(value["challenger"])
    assert gate(value)[0] == "reject"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity_B": np.zeros(4)}, "propensity_B must lie in"),
        ({"gain_B": np.array([np.nan, 0, 0, 0])}, "gain_B must be finite"),
        ({"channel_B": np.array([0, 1, -1, 0])}, "channel_B: a channel is not"),  # the code of an unknown name
    ],
)
def test_invalid_arrays_are_refused(change, message):
    columns = {"channel_B": np.zeros(4, int), "propensity_B": np.full(4, 0.5), "gain_B": np.ones(4)}
    with pytest.raises(ValueError, match=message):
        LoggedRows(**{**columns, **change}, cost_B=np.ones(4), users_B=np.arange(4))


@pytest.mark.parametrize("probs", [[[0.5, 0.6]], [[1.5, -0.5]], [[np.nan, 1.0]]])
def test_probabilities_must_be_probabilities(probs):
    with pytest.raises(ValueError, match="probs_BC"):
        PolicyOnLog(np.array(probs), np.ones((1, 2), dtype=bool))
