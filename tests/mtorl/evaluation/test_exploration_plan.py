from typing import get_args

import numpy as np
import pytest

from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.exploration_plan import exploration_plan
from mtorl.evaluation.logged_rows import PolicyOnLog
from mtorl.log.records import ExplorationScope
from mtorl.policy.exploration import Choice, Exploration, explore

CHANNELS = ("search", "social", "video")
B, C = 400, len(CHANNELS)
rng = np.random.default_rng(0)
GAIN_BC, COST_BC = rng.uniform(0.02, 0.2, (B, C)), rng.uniform(0.1, 0.5, (B, C))
FORECAST = ExpectedOutcomes(GAIN_BC, COST_BC)
FIXED = PolicyOnLog(np.tile([1.0, 0.0, 0.0], (B, 1)), np.ones((B, C)))
SOFT = PolicyOnLog(rng.dirichlet(np.ones(C), B), np.where(GAIN_BC > 0.08, 1.0, 0.0))
TARGET = PolicyOnLog(rng.dirichlet(np.ones(C), B), GAIN_BC > 0.1)


def plan(served: PolicyOnLog = SOFT, target: PolicyOnLog = TARGET, **options):
    return exploration_plan(served, target, FORECAST, **options)


@pytest.mark.parametrize("scope", get_args(ExplorationScope))
def test_a_plans_probabilities_equal_those_of_explore(scope: ExplorationScope) -> None:
    served = PolicyOnLog(np.array([[0.6, 0.4, 0.0]]), np.array([[1.0, 0.0, 1.0]]))
    gain, cost = ExpectedOutcomes(GAIN_BC[:1], COST_BC[:1]), COST_BC[0]
    target = PolicyOnLog(np.array([[0.2, 0.3, 0.5]]), np.ones((1, C), dtype=bool))
    (found,) = [
        option for option in exploration_plan(served, target, gain, shares=(0.1,)).options if option.scope == scope
    ]
    choice = Choice(
        "search", True, {"search": 0.6, "social": 0.4, "video": 0.0}, {"search": 1.0, "social": 0.0, "video": 1.0}
    )
    (_, _, probs, shows), _ = explore(choice, Exploration(share=0.1, scope=scope), CHANNELS, 0.9)
    made = np.array([probs[name] * shows[name] for name in CHANNELS])
    alone = np.array([0.6, 0.0, 0.0])
    earned, before = made @ GAIN_BC[0], alone @ GAIN_BC[0]
    lost = before - earned * min(1.0, (alone @ cost) / (made @ cost))
    assert found.cost == pytest.approx(max(lost, 0.0)) and found.cost_share == pytest.approx(max(lost, 0) / before)
    assert found.impossible == pytest.approx(np.array([0.2, 0.3, 0.5])[made == 0].sum())


def test_a_deterministic_policy_needs_exploration() -> None:
    options = {(option.scope, option.share): option for option in plan(FIXED).options}
    none, both = options["both", 0.0], options["both", 0.05]
    assert none.impossible == none.forecast > 0.5 and none.cost == 0.0
    assert both.impossible == 0.0 and 0.0 < both.cost_share < 0.05
    assert options["exposure", 0.1].impossible == none.impossible, "this scope never draws another channel"
    costs = [options["both", share].cost_share for share in (0.01, 0.02, 0.05, 0.1)]
    assert costs == sorted(costs) and costs[-1] == pytest.approx(10 * costs[0], rel=0.2)
    assert all(options["both", share].forecast <= 0.25 for share in (0.01, 0.05, 0.1)), "a quarter at most"
    told = [options["both", share].told_after for share in (0.01, 0.05, 0.1, 0.4)]
    assert told == sorted(told, reverse=True), "more exploration detects the difference earlier"
    found = plan(FIXED)
    until_told = {
        (option.scope, option.share): option.told_after * (option.cost + found.lift * found.gain)
        for option in found.options
        if option.told_after is not None and not option.impossible
    }
    assert found.best is not None and until_told[found.best.scope, found.best.share] == min(until_told.values())
    assert plan(FIXED, shares=(0.0,)).best is None


def test_a_policy_needs_no_exploration_to_value_itself() -> None:
    served = PolicyOnLog(TARGET.probs_BC, np.where(TARGET.expose_BC, 1.0, 0.0))
    found = plan(served)
    assert found.best is not None and not found.best.share
    assert found.overlap == pytest.approx(1.0) and found.options[0].told_after == 0.0
    assert found.options[0].impossible == 0.0


def test_after_the_planned_decisions_a_difference_is_detected() -> None:
    """80 % of the intervals must exclude zero in logs of the planned length."""
    served, share = SOFT, 0.1
    rare = 1.0 - np.average(GAIN_BC, weights=GAIN_BC)  # variance of a click over its mean
    found = exploration_plan(SOFT, TARGET, FORECAST, 0.25, rare, lift=0.08, shares=(share,))
    option = next(option for option in found.options if option.scope == "both")
    # Scale the gains such that the target has the planned lift.
    made_BC = (1 - share) * served.probs_BC * served.expose_BC + share / C
    exposing_BC = TARGET.probs_BC * TARGET.expose_BC
    kept_BC = min(
        (exposing_BC <= largest * made_BC for largest in (3, 5, 10, 20, 50, np.inf)),
        key=lambda kept_BC: (exposing_BC * ~kept_BC).sum() > 0.25 * exposing_BC.sum(),
    )
    weight_BC = np.where(kept_BC, exposing_BC / made_BC, 0.0) - 1.0
    rows = round(option.told_after * 0.25)
    told = []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        at = draw.integers(B, size=rows)
        edges = np.cumsum(made_BC[at], axis=1)
        channel = (draw.random(rows)[:, None] > edges).sum(axis=1)
        shown = channel < C
        channel = np.minimum(channel, C - 1)
        gain = (draw.random(rows) < GAIN_BC[at, channel]) * shown
        # If the model is right, the doubly robust estimate is the true lift plus noise from the gains.
        noise = weight_BC[at, channel] * (gain - GAIN_BC[at, channel] * shown) * shown
        error = noise.std() / np.sqrt(rows)
        told.append(found.lift * found.gain + noise.mean() > 1.96 * error)
    assert np.mean(told) == pytest.approx(0.8, abs=0.07)
