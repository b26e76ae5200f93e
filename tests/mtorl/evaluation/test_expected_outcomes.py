import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.evaluation.expected_outcomes import ExpectedOutcomes, doubts, mean_and_doubt, thinned, unsure_of

B, C = 50, 3


@given(st.integers(0, 1000), st.floats(0.0, 0.2), st.floats(0.02, 1.0))
def test_the_doubt_bounds_errors_between_the_forecasts(seed: int, of_costs: float, budget: float) -> None:
    random = np.random.default_rng(seed)
    gains, costs = random.random((2, B, C)), 0.5 + of_costs * random.random((2, B, C))
    mean, half = mean_and_doubt([ExpectedOutcomes(*both) for both in zip(gains, costs, strict=True)], (B, C))
    assert half is not None
    left_2BC = random.random((2, B, C)) * (random.random((2, B, C)) < 0.5) / C

    def values(gain_BC: np.ndarray, cost_BC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        gain_2, cost_2 = ((left_2BC * of_BC).sum(axis=(1, 2)) / B for of_BC in (gain_BC, cost_BC))
        return gain_2, cost_2, gain_2 * thinned(cost_2, np.array([budget]))

    gain_2, cost_2, value_2 = values(mean.gain_BC, mean.cost_BC)
    share_2 = thinned(cost_2, np.array([budget]))
    doubt_2, of_difference = doubts(list(left_2BC), half, gain_2, cost_2, share_2, np.array([budget]))
    assert of_difference <= doubt_2.sum() + 1e-12, "both arms' forecasts have one common truth"
    for _ in range(20):
        between = random.random(C).round() if random.random() < 0.5 else random.random(C)  # alike in all rows
        *_, true_2 = values(*((1 - between) * first + between * last for first, last in (gains, costs)))
        assert (np.abs(true_2 - value_2) <= doubt_2 + 1e-12).all()
        assert abs((true_2[0] - true_2[1]) - (value_2[0] - value_2[1])) <= of_difference + 1e-12


def test_equal_parts_left_to_forecasts_cancel_in_the_difference() -> None:
    left = [np.full((B, C), 0.1)] * 2
    half = ExpectedOutcomes(np.full((B, C), 0.05), np.zeros((B, C)))
    doubt_2, of_difference = doubts(left, half, np.ones(2), np.ones(2), np.ones(2), np.array([2.0]))
    assert doubt_2 == pytest.approx([0.015, 0.015]) and of_difference == 0.0


def test_the_jackknife_estimates_the_spread_of_a_mean() -> None:
    folds, seen = 5, 200
    spreads = []
    for seed in range(300):
        gains = np.random.default_rng(seed).normal(size=(folds, seen))
        models = [np.full((B, C), np.delete(gains, fold, axis=0).mean()) for fold in range(folds)]
        opinion = ExpectedOutcomes(np.zeros((B, C)), np.ones((B, C)), tuple(models))
        left = [np.full((B, C), 1 / C), np.zeros((B, C))]
        challenger, incumbent, difference = unsure_of(left, [opinion, opinion], np.zeros(C))
        assert challenger == pytest.approx(difference) and incumbent == 0.0
        spreads.append(difference**2)
    assert np.mean(spreads) == pytest.approx(2.776**2 / (folds * seen), rel=0.15)


def test_an_opinion_without_replicates_counts_as_sure() -> None:
    plain = ExpectedOutcomes(np.ones((B, C)), np.ones((B, C)))
    assert unsure_of([np.ones((B, C))] * 2, [plain, plain], np.ones(C)).tolist() == [0.0] * 3
    assert unsure_of([np.ones((B, C))] * 2, [], np.ones(C)).tolist() == [0.0] * 3


def test_models_that_agree_on_a_hardly_exposed_channel_are_unsure_of_its_mean() -> None:
    opinion = ExpectedOutcomes(np.ones((B, C)), np.ones((B, C)), (np.ones((B, C)),) * 5)
    left = [np.eye(C)[[0] * B] * 0.2, np.zeros((B, C))]
    errors_C = np.array([0.5, *[0.0] * (C - 1)])
    assert unsure_of(left, [opinion, opinion], errors_C) == pytest.approx([0.196, 0.0, 0.196], rel=1e-3)
    assert unsure_of([left[0]] * 2, [opinion, opinion], errors_C)[2] == 0.0
