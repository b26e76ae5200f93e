"""A log whose exposures contradict its probabilities is found, and no right log is suspected."""

import numpy as np
import pytest

from mtorl.evaluation.logged_rows import Exposure, LoggedRows

ROWS = 20_000
RARE_C = np.array([0.02, 0.28, 0.7])
EXPOSING_C = np.array([0.9, 0.5, 0.2])


def log_of(seed: int, told_C: np.ndarray, opportunities: bool, impossible: float = 0.0) -> LoggedRows:
    """Channels are drawn with `RARE_C`, without the first channel in some rows; `told_C` is what the log tells."""
    random = np.random.default_rng(seed)
    without_B = random.random(ROWS) < impossible
    drawn_BC, told_BC = (np.tile(probs_C, (ROWS, 1)) for probs_C in (RARE_C, told_C))
    for probs_BC in (drawn_BC, told_BC):
        probs_BC[without_B, 0] = 0.0
        probs_BC /= probs_BC.sum(axis=1, keepdims=True)
    channel_B = (random.random(ROWS)[:, None] > drawn_BC.cumsum(axis=1)).sum(axis=1)
    at_channel = np.arange(ROWS), channel_B
    exposed_B = random.random(ROWS) < EXPOSING_C[channel_B]
    exposure = Exposure(exposed_B, EXPOSING_C[channel_B], told_BC * EXPOSING_C) if opportunities else None
    zeros_B = np.zeros(ROWS)
    return LoggedRows(channel_B, told_BC[at_channel], zeros_B, zeros_B, np.arange(ROWS), exposure)


@pytest.mark.parametrize("opportunities", [False, True])
def test_a_channel_with_more_exposures_than_its_probabilities_allow_is_found(opportunities: bool) -> None:
    halved_C = np.array([0.01, 0.29, 0.7])
    for seed in range(20):
        found = log_of(seed, halved_C, opportunities).overexposed_channel()
        assert found is not None
        channel, count, expected = found
        assert channel == 0 and 1.3 < count / expected < 3.0
        for impossible in (0.0, 0.6):
            assert log_of(seed, RARE_C, opportunities, impossible).overexposed_channel() is None
