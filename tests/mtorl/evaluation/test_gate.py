"""Off-policy value against the true value of a small bandit, equal budgets, and the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mtorl.evaluation.gate import ExpectedOutcomes, gate, value_difference
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities

C = 3
COST = np.array([1.0, 0.5, 2.0])
GAIN = np.array([[0.30, 0.10, 0.35], [0.05, 0.20, 0.10]])  # gain probability by kind of user and channel
LOGGING = np.array([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4]])
CHALLENGER = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
INCUMBENT = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
EXPOSE = np.array([[True, True, False], [False, True, True]])


def bandit(users: int, seed: int) -> tuple[np.ndarray, LoggedRows]:
    """The kind of user of each row, and the log: users have 1 to 12 rows each and a gain rate of their own."""
    random = np.random.default_rng(seed)
    kind_U, taste_U = random.integers(2, size=users), random.uniform(0.3, 1.7, size=users)
    user = np.repeat(np.arange(users), random.integers(1, 13, size=users))
    kind = kind_U[user]
    channel = (random.random(len(user))[:, None] > LOGGING[kind].cumsum(axis=1)).sum(axis=1)
    gain = (random.random(len(user)) < GAIN[kind, channel] * taste_U[user]).astype(float)
    return kind, LoggedRows(channel, LOGGING[kind, channel], gain, COST[channel], user)


def on_log(policy: np.ndarray, kind: np.ndarray, expose: np.ndarray | None = None) -> PolicyOnLog:
    everywhere = np.ones((2, C), dtype=bool)
    return PolicyOnLog(policy[kind], (everywhere if expose is None else expose)[kind])


def true_value(policy: np.ndarray, expose: np.ndarray, budget_share: float) -> float:
    """Both kinds are equally common, and so is every length of a journey within them."""
    gain, cost = (policy * expose * GAIN).sum(1).mean(), (policy * expose * COST).sum(1).mean()
    budget = budget_share * (LOGGING * COST).sum(1).mean()
    return gain * min(1.0, budget / cost)


def estimate(users: int, seed: int, budget_share: float = 0.5, **options):
    kind, log = bandit(users, seed)
    challenger, incumbent = on_log(CHALLENGER, kind, EXPOSE), on_log(INCUMBENT, kind)
    return value_difference(challenger, incumbent, log, budget_share, seed, **options)


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


def test_the_logging_policy_itself_is_worth_what_was_logged():
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


def test_spending_more_is_no_merit():
    """Twice the exposures at the same gain per cost are worth the same under a binding budget."""
    kind, log = bandit(300, 0)
    half = np.random.default_rng(1).random(len(kind)) < 0.5
    thrifty = PolicyOnLog(LOGGING[kind], np.repeat(half[:, None], C, axis=1))
    spender = on_log(LOGGING, kind)
    value = value_difference(spender, thrifty, log, 0.25, 0, resamples=200)
    assert value["gain_per_opportunity"]["challenger"] > 1.5 * value["gain_per_opportunity"]["incumbent"]
    low, high = value["difference_ci"]
    assert low < 0 < high


def test_abstaining_counts_as_zero_and_not_as_missing():
    kind, log = bandit(300, 0)
    never = PolicyOnLog(LOGGING[kind], np.zeros((len(kind), C), dtype=bool))
    value = value_difference(never, on_log(LOGGING, kind), log, 1.0, 0)
    assert value["challenger"] == 0.0
    assert value["cost_per_opportunity"]["challenger"] == 0.0
    assert value["difference"] == pytest.approx(-log.gain_B.mean())


def test_overlap_is_the_share_of_a_policys_exposures_that_the_log_would_make_too():
    value = estimate(20_000, seed=3, resamples=2)
    exposing = CHALLENGER * EXPOSE
    distance = 0.5 * np.abs(INCUMBENT - LOGGING).sum(1).mean()
    assert value["overlap"]["challenger"] == pytest.approx(
        np.minimum(exposing, LOGGING).sum() / exposing.sum(), abs=0.01
    )
    assert value["overlap"]["incumbent"] == pytest.approx(1 - distance, abs=0.01)
    assert value["mean_weight"] == pytest.approx({"challenger": 1.0, "incumbent": 1.0}, abs=0.01)


def test_result_is_json_and_repeats_with_its_seed():
    value = estimate(100, seed=4, resamples=50)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert estimate(100, seed=4, resamples=50) == value


SHOW = np.array([[1.0, 0.2, 0.0], [0.5, 1.0, 0.2]])
"""Probability of exposing a channel, once it is drawn, by kind of user."""


def opportunities(users: int, seed: int, show: np.ndarray = SHOW) -> tuple[np.ndarray, LoggedRows]:
    """The same bandit, where not every draw is exposed."""
    kind, log = bandit(users, seed)
    probability = show[kind, log.channel_B]
    exposed = np.random.default_rng(seed + 1).random(len(kind)) < probability
    exposure = Exposure(exposed, probability, LOGGING[kind] * show[kind])
    columns = (log.gain_B * exposed, log.cost_B * exposed, log.users_B)
    return kind, LoggedRows(log.channel_B, log.propensity_B, *columns, exposure)


def models(kind: np.ndarray, error: float = 0.0, incumbent: float | None = None) -> dict[str, ExpectedOutcomes]:
    """What the arms' models expect: the truth, or something else."""
    errors = {"challenger": error, "incumbent": error if incumbent is None else incumbent}
    costs = np.broadcast_to(COST, GAIN[kind].shape)
    return {arm: ExpectedOutcomes(GAIN[kind] + error, costs) for arm, error in errors.items()}


@pytest.mark.parametrize("error", [None, 0.0, 0.2], ids=["no model", "right model", "wrong model"])
def test_values_are_right_where_exposures_depend_on_the_draw(error: float | None) -> None:
    allowed = np.array([[True, True, False], [True, True, True]])  # what the log can tell of
    exposed = LOGGING * (SHOW > 0)
    drawn = (LOGGING * COST).sum(axis=1).mean() if error is not None else (exposed * COST).sum() / exposed.sum()
    exposing = CHALLENGER * allowed
    gain, cost = (exposing * GAIN).sum(axis=1).mean(), (exposing * COST).sum(axis=1).mean()
    true = gain * min(1.0, 0.5 * drawn / cost)  # without a model, the log tells the cost of what it could expose
    runs = []
    for seed in range(60):
        kind, log = opportunities(300, seed)
        challenger, incumbent = on_log(CHALLENGER, kind, allowed), on_log(INCUMBENT, kind, SHOW > 0)
        forecasts = None if error is None else models(kind, error)
        runs.append(value_difference(challenger, incumbent, log, 0.5, seed, forecasts, resamples=200))
    assert np.mean([low <= true <= high for low, high in (run["challenger_ci"] for run in runs)]) >= 0.88
    assert np.mean([run["challenger"] for run in runs]) == pytest.approx(true, abs=0.006)
    assert np.mean([run["mean_weight"]["challenger"] for run in runs]) == pytest.approx(1.0, abs=0.02)
    assert {run["impossible"]["challenger"] for run in runs} == {0.0}


def test_a_right_model_makes_up_for_wrong_probabilities() -> None:
    kind, log = opportunities(4000, 3, show=np.ones((2, C)))
    others = LOGGING[1 - kind, log.channel_B]
    wrong = LoggedRows(log.channel_B, others, log.gain_B, log.cost_B, log.users_B)
    policy, true = on_log(CHALLENGER, kind), (CHALLENGER * GAIN).sum(axis=1).mean()
    plain = value_difference(policy, policy, wrong, 100.0, 0, resamples=10)
    helped = value_difference(policy, policy, wrong, 100.0, 0, models(kind), resamples=10)
    assert abs(helped["challenger"] - true) < 0.01 < abs(plain["challenger"] - true)


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
    older = {name: content for name, content in value.items() if name != "impossible"}
    assert "could make" not in gate(older)[1], "an evaluation of an earlier version says nothing of it"


RARELY = np.array([[1.0, 1.0, 0.004], [0.004, 1.0, 1.0]])
"""Nearly never exposed, so that an exposure counts a hundred times and more."""


@pytest.mark.parametrize(("of_challenger", "of_incumbent"), [(0.0, 0.0), (0.15, -0.05), (-0.05, 0.15)])
def test_what_was_hardly_ever_exposed_is_left_to_forecasts(of_challenger: float, of_incumbent: float) -> None:
    """The estimate is far steadier; a model that promises too much does not help its policy."""
    everything = np.ones_like(EXPOSE)
    true = true_value(CHALLENGER, everything, 100.0) - true_value(INCUMBENT, RARELY > 0.5, 100.0)
    runs, plain = [], []
    for seed in range(40):
        kind, log = opportunities(300, seed, RARELY)
        policies = on_log(CHALLENGER, kind, everything), on_log(INCUMBENT, kind, RARELY > 0.5)
        forecasts = models(kind, of_challenger, of_incumbent)
        runs.append(value_difference(*policies, log, 100.0, seed, forecasts, resamples=100))
        plain.append(value_difference(*policies, log, 100.0, seed, resamples=100))
    left = CHALLENGER[0, 2] + CHALLENGER[1, 0]  # the same probability of either kind of user
    assert np.mean([run["forecast"]["challenger"] for run in runs]) == pytest.approx(left / 2, abs=0.01)
    assert {run["forecast"]["incumbent"] for run in runs} == {0.0}
    found, noisy = (np.array([run["difference"] for run in some]) for some in (runs, plain))
    assert found.std() < 0.5 * np.nanstd(noisy)
    low = min(of_challenger, of_incumbent) * left / 2
    assert found.mean() == pytest.approx(true + low, abs=0.01), "the model that promises less counts"
    assert np.mean([run["mean_weight"]["challenger"] for run in runs]) == pytest.approx(1.0, abs=0.02)
    above = [run["difference_ci"][0] > true for run in runs]
    assert np.mean(above) <= 0.075


def test_the_gate_refuses_what_rests_on_forecasts_for_the_most_part() -> None:
    value = {**estimate(3000, seed=5), "forecast": {"challenger": 0.3, "incumbent": 0.0}}
    decision, reason = gate(value)
    assert decision == "reject" and "30% of its exposures are of a kind that its policies hardly ever made" in reason
    assert gate({**value, "forecast": {"challenger": 0.2, "incumbent": 0.0}})[0] == "promote"
    assert gate({name: content for name, content in value.items() if name != "forecast"})[0] == "promote"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability_B": np.array([1.5, 1.0])}, r"probability_B must lie in \[0, 1\]"),
        ({"probability_B": np.array([0.0, 1.0])}, "was exposed that could not have been"),
        ({"exposed_B": np.array([True])}, "one row for each decision"),
    ],
)
def test_exposures_that_do_not_fit_together_are_refused(change: dict, message: str) -> None:
    right = {"exposed_B": np.array([True, False]), "probability_B": np.array([0.5, 1.0])}
    with pytest.raises(ValueError, match=message):
        Exposure(**{**right, "probs_BC": np.full((2, 3), 0.3), **change})
    with pytest.raises(ValueError, match="2 decisions for 3 rows"):
        exposure = Exposure(**right, probs_BC=np.full((2, 3), 0.3))
        LoggedRows(np.zeros(3, int), np.full(3, 0.5), np.ones(3), np.ones(3), np.arange(3), exposure)


def test_gate_promotes_on_the_lower_bound():
    value = estimate(3000, seed=5)
    decision, reason = gate(value)
    assert decision == "promote"
    assert "all above 0" in reason
    low, _ = value["difference_ci"]
    assert gate(value, min_lift=low * 1.01)[0] == "reject"
    assert gate(json.loads(json.dumps(value)), min_lift=low * 0.99)[0] == "promote"


def test_gate_rejects_a_difference_that_may_be_noise():
    value = estimate(60, seed=5)
    assert value["difference"] > 0
    decision, reason = gate({**value, "difference_ci": [-0.001, value["difference_ci"][1]]})
    assert decision == "reject"
    assert "interval" in reason


def test_gate_refuses_to_judge_on_few_effective_rows():
    value = estimate(3000, seed=5)
    few = {**value, "ess": {"challenger": 99.0, "incumbent": 5000.0}}
    decision, reason = gate(few)
    assert decision == "reject"
    assert "too little about the challenger" in reason
    assert gate({**value, "rows": 1_000_000, "ess": {"challenger": 9_000.0, "incumbent": 9_000.0}})[0] == "reject"
    assert gate({**value, "ess": {"challenger": 5_000.0, "incumbent": 50.0}})[0] == "reject"


def test_gate_wants_a_hundred_rows_however_short_the_log():
    value = {**estimate(3000, seed=5), "rows": 2000}
    assert gate({**value, "ess": {"challenger": 99.0, "incumbent": 500.0}})[0] == "reject"
    assert gate({**value, "ess": {"challenger": 101.0, "incumbent": 500.0}})[0] == "promote"


def test_each_arm_has_weights_of_its_own():
    value = estimate(3000, seed=5)
    for arm in ("challenger", "incumbent"):
        low, high = value["mean_weight_ci"][arm]
        assert low < value["mean_weight"][arm] < high
    assert value["mean_weight_ci"]["challenger"] != value["mean_weight_ci"]["incumbent"]


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


def test_a_policy_far_from_the_log_is_rejected_and_not_a_crash():
    """All its weight is on a channel that the log never shows for these rows."""
    rows = 500
    probs = np.tile([0.0, 1.0], (rows, 1))
    far = PolicyOnLog(probs, np.ones((rows, 2), bool))
    near = PolicyOnLog(np.full((rows, 2), 0.5), np.ones((rows, 2), bool))
    log = LoggedRows(np.zeros(rows, int), np.full(rows, 0.9), np.ones(rows), np.ones(rows), np.arange(rows))
    value = value_difference(far, near, log, 1.0, 0, resamples=10)
    assert value["ess"]["challenger"] == 0
    assert np.isnan(value["challenger"])
    assert gate(value)[0] == "reject"


def test_reads_what_the_decision_rule_says():
    kind, log = bandit(50, 0)
    params = PolicyParams(advantage_weight=1.0, price=0.1, utility_scale=0.1)
    logits, predicted = np.log(LOGGING)[kind], GAIN[kind]
    policy = PolicyOnLog(*action_probabilities(Forecast(logits, predicted, np.tile(COST, (len(kind), 1))), params))
    value = value_difference(policy, policy, log, 0.5, 0, resamples=5)
    assert value["difference"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity_B": np.zeros(4)}, "propensity_B must lie in"),
        ({"gain_B": np.array([np.nan, 0, 0, 0])}, "gain_B must be finite"),
        ({"cost_B": np.ones(3)}, "cost_B must have shape"),
        ({"budget_share": 0.0}, "budget_share"),
        ({"channel_B": np.array([0, 1, 2, 0])}, "channel_B: challenger knows channels 0 to 1"),
        ({"channel_B": np.full(4, -1)}, "channel_B: challenger knows"),
        ({"challenger": PolicyOnLog(np.ones((3, 1)), np.ones((3, 1), bool))}, "challenger: 3 rows"),
    ],
)
def test_invalid_arrays_are_refused(change, message):
    policy = PolicyOnLog(np.full((4, 2), 0.5), np.ones((4, 2), dtype=bool))
    columns = {
        "channel_B": np.zeros(4, int), "propensity_B": np.full(4, 0.5), "gain_B": np.ones(4), "cost_B": np.ones(4),
        "users_B": np.arange(4),
    }  # fmt: skip
    arguments = {"challenger": policy, "incumbent": policy, "budget_share": 0.5, "seed": 0}
    changed = {name: change.get(name, value) for name, value in {**columns, **arguments}.items()}
    with pytest.raises(ValueError, match=message):
        log = LoggedRows(**{name: changed[name] for name in columns})
        value_difference(log=log, **{name: changed[name] for name in arguments})


@pytest.mark.parametrize("probs", [[[0.5, 0.6]], [[1.5, -0.5]], [[np.nan, 1.0]], [0.5, 0.5]])
def test_probabilities_must_be_probabilities(probs):
    with pytest.raises(ValueError, match="probs_BC"):
        PolicyOnLog(np.array(probs), np.ones((1, 2), dtype=bool))
