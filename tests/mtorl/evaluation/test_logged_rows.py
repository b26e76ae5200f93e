"""Tests that a log is rejected if its propensities don't fit its rows."""

import numpy as np

from mtorl.evaluation.logged_rows import LoggedRows

ROWS = 20_000
RARE_C = np.array([0.02, 0.28, 0.7])


def log_of(seed: int, told_C: np.ndarray, impossible: float = 0.0, alike: int = 0) -> LoggedRows:
    """Return a log whose channels are drawn with `RARE_C` and whose logged propensities are those of `told_C`.

    In a share `impossible` of the rows, the first channel has probability 0. The first `alike` rows belong to one user,
    who always gets the first channel.
    """
    random = np.random.default_rng(seed)
    without_B = random.random(ROWS) < impossible
    drawn_BC, told_BC = (np.tile(probs_C, (ROWS, 1)) for probs_C in (RARE_C, told_C))
    for probs_BC in (drawn_BC, told_BC):
        probs_BC[without_B, 0] = 0.0
        probs_BC /= probs_BC.sum(axis=1, keepdims=True)
    channel_B = (random.random(ROWS)[:, None] > drawn_BC.cumsum(axis=1)).sum(axis=1)
    channel_B[:alike] = 0
    user_B, zeros_B = np.maximum(np.arange(ROWS) - alike, 0) // 5, np.zeros(ROWS)
    return LoggedRows(channel_B, np.maximum(told_BC[np.arange(ROWS), channel_B], 0.01), zeros_B, zeros_B, user_B)


def test_a_channel_with_more_rows_than_its_propensities_imply_is_found() -> None:
    for seed in range(20):
        found = log_of(seed, np.array([0.01, 0.29, 0.7])).overexposed_channel()
        assert found is not None
        channel, count, expected = found
        assert channel == 0 and 1.3 < count / expected < 3.0


def test_right_logs_are_not_suspected() -> None:
    for seed in range(20):
        for more in ({}, {"impossible": 0.6}, {"alike": 400}):
            assert log_of(seed, RARE_C, **more).overexposed_channel() is None
