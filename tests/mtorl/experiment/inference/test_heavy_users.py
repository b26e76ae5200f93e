"""Tests that users with very many decisions, such as bots, don't decide a verdict."""

import numpy as np
import pytest

from mtorl.experiment.inference.heavy_users import HEAVIEST, user_weights
from mtorl.experiment.inference.statistics import confidence_sequence, estimate, one_sided_width
from mtorl.experiment.inference.sums import Floats, Sums
from tests.mtorl.experiment.inference.rows import sums_of_arms

ALPHA = 0.05


def test_a_user_counts_as_ten_typical_users_at_most() -> None:
    decisions = np.array([1.0, 3.0, 3.0, 30.0, 31.0, 3_000.0])
    typical = np.full(6, 3.0)
    weights = user_weights(decisions, typical)
    assert (weights * decisions).tolist() == [1.0, 3.0, 3.0, 30.0, 30.0, 30.0]
    assert user_weights(decisions[:3]).tolist() == [1.0, 1.0, 1.0], "the default is the median of the given users"
    assert user_weights(np.array([5.0, 5.0, 1e9]))[2] == pytest.approx(5 * HEAVIEST / 1e9)


def looks(rng: np.random.Generator, share: float, more: float, bot: float, part: float) -> list[Sums]:
    """Simulate looks at an experiment in which a bot makes the share `part` of the challenger's decisions."""
    users = 4_000
    decisions = 1.0 + rng.poisson(2.0, users)
    ours = rng.random(users) < share
    brings = rng.binomial(decisions.astype(int), rng.beta(1.0, 1.0 / (0.2 + more * ours) - 1.0)).astype(float)
    found = []
    for end in np.geomspace(500, users, 8).astype(int):
        of_bot = part / (1.0 - part) * decisions[:end][ours[:end]].sum()
        figures = np.stack([np.append(brings[:end], bot * of_bot), np.append(decisions[:end], of_bot)], -1)
        figures *= user_weights(figures[:, 1])[:, None]
        arm = np.append(~ours[:end], False).astype(int)
        found.append(sums_of_arms(arm, figures))
    return found


def bounds(sums: Sums) -> tuple[Floats, Floats, Floats]:
    found = estimate(sums)
    low, high = confidence_sequence(found.value, found.se, found.effective_users, alpha=ALPHA)
    width = one_sided_width(found.se, found.effective_users, alpha=ALPHA / 2)
    return low, high, found.value - width


@pytest.mark.parametrize("bot", [0.0, 1.0])
def test_a_bot_with_most_of_an_arms_decisions_decides_nothing(bot: float) -> None:
    rng = np.random.default_rng(31)
    runs = [[bounds(sums) for sums in looks(rng, 0.25, 0.0, bot, part=0.6)] for _ in range(40)]
    assert sum(any(low > 0 or high < 0 for low, high, _ in run) for run in runs) <= 2


@pytest.mark.parametrize("part", [0.1, 0.6])
def test_a_bot_does_not_hide_a_harm(part: float) -> None:
    rng = np.random.default_rng(32)
    runs = [[bounds(sums) for sums in looks(rng, 0.25, 0.145, 0.0, part)] for _ in range(10)]
    assert all(any(bound > 0.05 for *_, bound in run) for run in runs)
