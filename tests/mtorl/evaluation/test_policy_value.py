"""Value of one policy against known true values: the simulator's click probabilities, and a bandit of two states."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from mtorl.evaluation import policy_value as module
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.policy_value import policy_value, top_share
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Simulator, SimulatorConfig

ALL = ("ips", "snips", "dr")

# ---- the simulator: users, journeys, states that depend on what was shown before

BY_DEVICE = pd.DataFrame(
    {"mobile": [0.1, 0.6, 0.1, 0.2], "desktop": [0.6, 0.1, 0.2, 0.1], "tablet": [0.1, 0.2, 0.1, 0.6]}, index=CHANNELS
)


def market(users: int, seed: int):
    """A log, the policy that goes by device, the true P(click) of all channels, and what a model may read."""
    simulator = Simulator(SimulatorConfig(users=users, seed=seed))
    log, click_probability_BC = simulator.log(), simulator.click_probability()
    channel_B = log["channel"].map(CHANNELS.index).to_numpy()
    shown_BC = pd.DataFrame(np.eye(len(CHANNELS))[channel_B])
    clicked_BC = shown_BC.mul(log["click"], axis=0)
    user = log["user_id"].to_numpy()
    before = [
        (part.groupby(user).cumsum() - part).clip(upper=2).astype(int).to_numpy() for part in (shown_BC, clicked_BC)
    ]
    return log, channel_B, BY_DEVICE[log["device"]].T.to_numpy(), click_probability_BC, 3 * before[1] + before[0]


@cache
def model() -> np.ndarray:
    """Click rate of each channel by how often a user, not one of the tests', saw and clicked it before."""
    log, channel_B, _, _, past_BC = market(2000, seed=1)
    at = channel_B, past_BC[np.arange(len(log)), channel_B]
    clicks, shows = np.full((len(CHANNELS), 9), 2.0), np.full((len(CHANNELS), 9), 20.0)
    np.add.at(clicks, at, log["click"])
    np.add.at(shows, at, 1.0)
    return clicks / shows


def estimate(users: int, seed: int, resamples: int = 1000):
    log, channel_B, probs_BC, click_probability_BC, past_BC = market(users, seed)
    gain_model_BC = model()[np.arange(len(CHANNELS)), past_BC]
    rows = LoggedRows(channel_B, log["propensity"], log["click"], log["cost"], log["user_id"])
    found = policy_value(PolicyOnLog.always_exposing(probs_BC), rows, seed, gain_model_BC, resamples=resamples)
    return found, (probs_BC * click_probability_BC).sum(axis=1).mean()


def test_intervals_cover_the_simulators_true_values():
    """At the logged states, and for the market at large; DR knows more than IPS."""
    runs = [estimate(200, 1000 + seed, resamples=300) for seed in range(100)]
    _, at_large = estimate(20_000, seed=2, resamples=2)
    width = {}
    for name in ALL:
        found = [run["estimates"][name] for run, _ in runs]
        low, high = np.array([one["value_ci"] for one in found]).T
        true_value = np.array([true_value for _, true_value in runs])
        assert np.mean((low <= true_value) & (true_value <= high)) >= 0.92, name
        assert np.mean((low <= at_large) & (at_large <= high)) >= 0.88, name
        assert np.mean([one["value"] for one in found]) == pytest.approx(at_large, abs=0.003), name
        width[name] = np.mean(high - low)
    assert width["dr"] < 0.97 * width["ips"]
    assert width["snips"] < width["ips"]
    assert not any(run["not_evaluable"] for run, _ in runs)
    low, high = np.array([run["importance_weights"]["mean_weight_ci"] for run, _ in runs]).T
    assert np.mean((low <= 1) & (high >= 1)) >= 0.88


# ---- a bandit of two states, in which everything can be said by hand

LOGGING = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
GAIN = np.array([[0.1, 0.3, 0.2], [0.5, 0.3, 0.7]])
POLICY = np.array([[0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
WRONG_GAIN = np.array([[0.6, 0.1, 0.6], [0.1, 0.5, 0.2]])


def bandit(rows: int, seed: int, logging: np.ndarray = LOGGING) -> tuple[np.ndarray, LoggedRows]:
    """The state of each row, and the log, with the propensities that `logging` claims."""
    random = np.random.default_rng(seed)
    state_B = random.integers(2, size=rows)
    channel_B = (random.random(rows)[:, None] > LOGGING[state_B].cumsum(axis=1)).sum(axis=1)
    gain_B = (random.random(rows) < GAIN[state_B, channel_B]).astype(float)
    propensity_B = logging[state_B, channel_B]
    return state_B, LoggedRows(channel_B, propensity_B, gain_B, np.ones(rows), np.arange(rows) // 5)


def value(rows: int = 2000, seed: int = 0, propensity=LOGGING, gain_model=GAIN, policy=POLICY, **options):
    state_B, log = bandit(rows, seed, propensity)
    if callable(options.get("selected_B")):
        options["selected_B"] = options["selected_B"](state_B, log.channel_B)
    gain_model_BC = None if gain_model is None else gain_model[state_B]
    return policy_value(PolicyOnLog.always_exposing(policy[state_B]), log, seed, gain_model_BC, **options)


TRUE_VALUE = (POLICY * GAIN).sum(axis=1).mean()


def mean_estimates(**change):
    runs = [value(4000, seed, resamples=2, **change)["estimates"] for seed in range(40)]
    return {name: np.mean([run[name]["value"] for run in runs]) for name in ALL}


def test_doubly_robust_needs_the_propensities_or_the_model_and_not_both():
    wrong_propensity = LOGGING[::-1]
    both = mean_estimates()
    assert both == pytest.approx(dict.fromkeys(ALL, TRUE_VALUE), abs=0.004)
    only_propensities = mean_estimates(gain_model=WRONG_GAIN)
    assert only_propensities == pytest.approx(dict.fromkeys(ALL, TRUE_VALUE), abs=0.006)
    only_model = mean_estimates(propensity=wrong_propensity)
    assert only_model["dr"] == pytest.approx(TRUE_VALUE, abs=0.006)
    for name in ("ips", "snips"):
        assert abs(only_model[name] - TRUE_VALUE) > 0.05
    neither = mean_estimates(propensity=wrong_propensity, gain_model=WRONG_GAIN)
    assert abs(neither["dr"] - TRUE_VALUE) > 0.05


def test_a_good_model_narrows_the_interval():
    def width(name: str, gain_model: np.ndarray) -> float:
        low, high = value(gain_model=gain_model)["estimates"][name]["value_ci"]
        return high - low

    assert width("dr", GAIN) < width("snips", GAIN) < width("ips", GAIN)
    assert width("dr", GAIN) < width("dr", WRONG_GAIN)


def test_the_logging_policy_is_worth_what_was_logged_and_lifts_nothing():
    found = value(policy=LOGGING, gain_model=None)
    assert set(found["estimates"]) == {"ips", "snips"}
    for one in found["estimates"].values():
        assert one["value"] == pytest.approx(found["logged"])
        assert one["value_ci"] == pytest.approx(found["logged_ci"])
        assert (one["lift"], *one["lift_ci"]) == pytest.approx((0.0, 0.0, 0.0))
    assert found["importance_weights"]["ess_share"] == pytest.approx(1.0)
    assert found["importance_weights"]["overlap"] == pytest.approx(1.0)
    assert found["importance_weights"]["max_weight"] == pytest.approx(1.0)
    assert found["not_evaluable"] is None


def test_lift_is_paired():
    """Value and logged gain come from the same rows: what they share cancels in the difference."""
    found = value(gain_model=None, policy=0.9 * LOGGING + 0.1 * POLICY)
    one = found["estimates"]["snips"]
    assert one["lift"] == pytest.approx(one["value"] - found["logged"])
    assert np.diff(one["lift_ci"]) < 0.5 * np.diff(one["value_ci"])


def test_not_exposing_earns_nothing():
    state_B, log = bandit(2000, 0)
    expose = np.array([[True, False, True], [True, True, False]])
    policy = PolicyOnLog(POLICY[state_B], expose[state_B])
    found = policy_value(policy, log, 0, GAIN[state_B])
    for name in ALL:
        assert found["estimates"][name]["value"] == pytest.approx((POLICY * GAIN * expose).sum(1).mean(), abs=0.02)


# ---- value on a selection


def test_a_selection_is_valued_as_a_log_of_its_own():
    state_B, log = bandit(4000, 0)
    chosen_B = state_B == 1
    found = value(4000, selected_B=lambda state_B, _: state_B == 1, resamples=300)
    columns = (log.channel_B, log.propensity_B, log.gain_B, log.cost_B, log.users_B)
    alone = policy_value(
        PolicyOnLog.always_exposing(POLICY[state_B][chosen_B]),
        LoggedRows(*(column[chosen_B] for column in columns)),
        seed=0,
        gain_model_BC=GAIN[state_B][chosen_B],
        resamples=300,
    )
    assert found["logged"] == pytest.approx(log.gain_B[chosen_B].mean())
    assert (found["rows"], found["users"]) == (chosen_B.sum(), len(np.unique(log.users_B[chosen_B])))
    assert {k: v for k, v in found["importance_weights"].items() if k != "mean_weight_ci"} == pytest.approx(
        {k: v for k, v in alone["importance_weights"].items() if k != "mean_weight_ci"}
    )
    for name in ALL:
        assert found["estimates"][name]["value"] == pytest.approx(alone["estimates"][name]["value"])
        assert found["estimates"][name]["value"] == pytest.approx((POLICY * GAIN)[1].sum(), abs=0.03)
        assert found["estimates"][name]["lift"] == pytest.approx(alone["estimates"][name]["lift"])
        assert np.diff(found["estimates"][name]["lift_ci"]) == pytest.approx(
            np.diff(alone["estimates"][name]["lift_ci"]), rel=0.25
        )


def test_weights_count_rows():
    """Weight 2 is the row twice, and it does not double what is known."""
    once = value(selected_B=lambda state_B, _: np.where(state_B == 1, 1.0, 0.0))
    twice = value(selected_B=lambda state_B, _: np.where(state_B == 1, 2.0, 0.0))
    assert twice["estimates"] == once["estimates"]
    assert twice["importance_weights"] == once["importance_weights"]
    mixed = value(selected_B=lambda state_B, _: np.where(state_B == 1, 3.0, 1.0))
    expected = ((POLICY * GAIN).sum(axis=1) @ [1, 3]) / 4
    assert mixed["estimates"]["dr"]["value"] == pytest.approx(expected, abs=0.02)


def test_a_selection_that_looked_at_the_logged_channel_is_caught():
    """The rows whose *logged* channel is predicted to gain most: no selection of states."""
    best = np.eye(3)[GAIN.argmax(axis=1)]
    assert value(policy=best)["not_evaluable"] is None
    peeked = value(policy=best, selected_B=lambda state_B, channel_B: GAIN[state_B, channel_B] >= 0.3)
    assert peeked["importance_weights"]["mean_weight_ci"][0] > 1.05
    assert "do not describe the log" in peeked["not_evaluable"]


def test_top_share_takes_the_highest_and_breaks_ties_by_its_seed():
    score_B = np.r_[np.zeros(50), np.ones(10), np.zeros(40)]
    chosen_B = top_share(score_B, 0.375, seed=0)
    assert chosen_B.sum() == 38 and chosen_B[50:60].all()
    assert 0 < chosen_B[:50].sum() < 28
    assert (top_share(score_B, 0.375, seed=0) == chosen_B).all()
    assert (top_share(score_B, 0.375, seed=1) != chosen_B).any()
    assert top_share(score_B, 1.0, seed=0).all()
    with pytest.raises(ValueError, match="share must lie"):
        top_share(score_B, 0.0, seed=0)


# ---- what cannot be said


def test_a_policy_that_the_log_hardly_knows_is_not_evaluable(monkeypatch: pytest.MonkeyPatch) -> None:
    rare = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert value(policy=rare)["not_evaluable"] is None  # a tenth of the rows is enough
    monkeypatch.setattr(module, "MIN_ESS_SHARE", 0.2)
    found = value(policy=rare)
    assert found["importance_weights"]["ess_share"] == pytest.approx(0.14, abs=0.02)
    assert "too little about the policy" in found["not_evaluable"]
    assert f"of {found['rows']} rows, at least 400 are needed" in found["not_evaluable"]
    assert found["estimates"]["snips"]["value"] is not None
    assert found["importance_weights"]["max_weight"] == pytest.approx(10.0)


def test_effective_rows_are_counted_among_the_selected_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rare = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    monkeypatch.setattr(module, "MIN_ESS_SHARE", 0.15)
    found = value(policy=rare, selected_B=lambda state_B, _: state_B == 1)
    assert found["importance_weights"]["rows"] == found["rows"] < 1100
    assert found["importance_weights"]["ess_share"] == pytest.approx(0.2, abs=0.03)
    assert found["importance_weights"]["ess"] < 0.15 * 2000  # too little of all rows, enough of those selected
    assert found["not_evaluable"] is None


def test_no_weight_at_all_is_null_and_not_a_crash():
    rows = 50
    far = PolicyOnLog.always_exposing(np.tile([0.0, 1.0], (rows, 1)))
    log = LoggedRows(np.zeros(rows, int), np.full(rows, 0.9), np.ones(rows), np.ones(rows), np.arange(rows))
    found = policy_value(far, log, 0)
    assert found["estimates"]["snips"] == {"value": None, "value_ci": None, "lift": None, "lift_ci": None}
    assert found["not_evaluable"]
    json.dumps(found, allow_nan=False)


def test_result_is_json_and_repeats_with_its_seed():
    found = value(resamples=20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert value(resamples=20) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selected_B": np.zeros(4, bool)}, "select a row at least"),
        ({"selected_B": np.array([1.0, -1.0, 1.0, 1.0])}, "no negative weight"),
        ({"selected_B": np.ones(3, bool)}, "selected_B must have shape"),
        ({"gain_model_BC": np.ones((4, 3))}, "gain_model_BC must be finite and of shape"),
        ({"gain_model_BC": np.full((4, 2), np.nan)}, "gain_model_BC must be finite"),
        ({"propensity_B": np.array([0.5, 0.5, 0.5, 1.5])}, "propensity_B must lie in"),
        ({"channel_B": np.array([0, 1, 2, 0])}, "channel_B: policy knows channels 0 to 1"),
        ({"channel_B": np.array([0, 1, -1, 0])}, "channel_B: policy knows channels 0 to 1"),
    ],
)
def test_invalid_arrays_are_refused(change, message):
    columns = {
        "channel_B": np.zeros(4, int), "propensity_B": np.full(4, 0.5), "gain_B": np.ones(4), "cost_B": np.ones(4),
        "users_B": np.arange(4),
    }  # fmt: skip
    policy = PolicyOnLog.always_exposing(np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=message):
        log = LoggedRows(**{name: change.get(name, column) for name, column in columns.items()})
        policy_value(policy, log, 0, **{name: value for name, value in change.items() if name not in columns})
