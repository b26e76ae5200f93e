"""Tests that the expected AUC is the mean AUC of simulated outcomes."""

import math

import numpy as np
import pytest

from mtorl.evaluation.head_metrics import auc_error, expected_auc, realised_auc


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_expected_and_realised_auc_agree_for_calibrated_probabilities(scale: float) -> None:
    rng = np.random.default_rng(1)
    p_N = 1 / (1 + np.exp(2 - scale * rng.normal(size=60_000)))
    success_N = rng.random(len(p_N)) < p_N
    came = realised_auc(p_N, success_N)
    assert abs(expected_auc(p_N) - came) < 0.01
    error = auc_error(came, int(success_N.sum()), int((~success_N).sum()))
    assert 0.0 < error < 0.01 and abs(expected_auc(p_N) - came) < 4 * error


def test_ties_and_nothing_to_rank() -> None:
    assert expected_auc(np.full(100, 0.2)) == pytest.approx(0.5)
    assert realised_auc(np.full(4, 0.2), [0, 1, 0, 1]) == pytest.approx(0.5)
    assert expected_auc([0.0, 1.0]) == 1.0
    # 81 % of the pairs are in the right order, and 18 % are ties.
    assert expected_auc([0.1, 0.1, 0.9, 0.9]) == pytest.approx(0.9)
    for nothing in ([], [0.0, 0.0], [1.0, 1.0]):
        assert math.isnan(expected_auc(nothing))
    assert math.isnan(realised_auc([], [])) and math.isnan(realised_auc([0.1, 0.2], [0, 0]))
    assert math.isnan(auc_error(0.7, 0, 10)) and math.isnan(auc_error(math.nan, 5, 5))


def test_the_error_equals_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(4)
    p_N = 1 / (1 + np.exp(2 - rng.normal(size=1_500)))
    drawn = [realised_auc(p_N, rng.random(len(p_N)) < p_N) for _ in range(200)]
    hits = round(float(p_N.sum()))
    assert auc_error(float(np.mean(drawn)), hits, len(p_N) - hits) == pytest.approx(float(np.std(drawn)), rel=0.25)
