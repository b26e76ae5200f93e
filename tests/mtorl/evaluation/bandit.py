"""A small bandit with known values, and logs of it."""

import numpy as np

from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.evaluation.logged_rows import Exposure, LoggedRows, PolicyOnLog
from mtorl.evaluation.value_difference import value_difference

C = 3
COST = np.array([1.0, 0.5, 2.0])
# Probability of a gain, by kind of user and channel.
GAIN = np.array([[0.30, 0.10, 0.35], [0.05, 0.20, 0.10]])
LOGGING = np.array([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4]])
CHALLENGER = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
INCUMBENT = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
EXPOSE = np.array([[True, True, False], [False, True, True]])


def bandit(users: int, seed: int) -> tuple[np.ndarray, LoggedRows]:
    """Return each row's kind of user, and a log of users with 1 to 12 rows."""
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
    gain, cost = (policy * expose * GAIN).sum(1).mean(), (policy * expose * COST).sum(1).mean()
    budget = budget_share * (LOGGING * COST).sum(1).mean()
    return gain * min(1.0, budget / cost)


def estimate(users: int, seed: int, budget_share: float = 0.5, **options):
    kind, log = bandit(users, seed)
    challenger, incumbent = on_log(CHALLENGER, kind, EXPOSE), on_log(INCUMBENT, kind)
    return value_difference(challenger, incumbent, log, budget_share, seed, **options)


SHOW = np.array([[1.0, 0.2, 0.0], [0.5, 1.0, 0.2]])
"""Probability of exposing a channel, once it is drawn, by kind of user."""


def opportunities(users: int, seed: int, show: np.ndarray = SHOW) -> tuple[np.ndarray, LoggedRows]:
    """Return the bandit with a log that exposes only some of the drawn channels."""
    kind, log = bandit(users, seed)
    probability = show[kind, log.channel_B]
    exposed = np.random.default_rng(seed + 1).random(len(kind)) < probability
    exposure = Exposure(exposed, probability, LOGGING[kind] * show[kind])
    columns = (log.gain_B * exposed, log.cost_B * exposed, log.users_B)
    return kind, LoggedRows(log.channel_B, log.propensity_B, *columns, exposure)


def models(kind: np.ndarray, *errors: float) -> list[ExpectedOutcomes]:
    costs = np.broadcast_to(COST, GAIN[kind].shape)
    return [ExpectedOutcomes(GAIN[kind] + error, costs) for error in errors]
