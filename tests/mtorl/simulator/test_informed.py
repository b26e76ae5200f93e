"""The informed forecast: right on average, better with more touchpoints, and never of what nobody can know."""

import numpy as np
import pytest

from mtorl.simulator.informed import Informed
from mtorl.simulator.simulator import Simulator, SimulatorConfig

USERS, ROUNDS = 3000, 4


@pytest.fixture(scope="module")
def rounds() -> list[tuple[np.ndarray, np.ndarray]]:
    """Forecast and true probability of every channel, round by round, while all see a random ad."""
    simulator = Simulator(SimulatorConfig(users=USERS, seed=3))
    online = simulator.online(simulator.user_ids, ROUNDS, 5)
    informed, found = Informed(simulator), []
    for turn in range(ROUNDS):
        found.append((informed.click_probability(online, turn), online.click_probability(turn)))
        online.advance(turn, np.random.default_rng(turn).integers(-1, 4, USERS))
    return found


def test_it_is_calibrated(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Bayes' rule with the right prior: among all with one forecast, the true mean is the forecast."""
    for forecast, true in rounds:
        order = np.argsort(forecast, axis=None)
        for tenth in np.array_split(order, 10):
            expected, found = forecast.flat[tenth].mean(), true.flat[tenth].mean()
            error = true.flat[tenth].std() / np.sqrt(len(tenth) / 4)  # four channels of a user are not independent
            assert abs(expected - found) < 4.5 * error


def test_every_ad_that_was_seen_tells_more(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    errors = [np.mean((forecast - true) ** 2) / np.var(true) for forecast, true in rounds]
    assert errors[-1] < errors[0] < 0.8, "less than the chance that is in the market"
    assert errors[-1] > 0.2, "and yet it does not see what nobody sees"


def test_another_online_begins_with_the_log(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    simulator = Simulator(SimulatorConfig(users=USERS, seed=3))
    informed = Informed(simulator)
    for seed in (4, 5):
        online = simulator.online(simulator.user_ids, ROUNDS, seed)
        forecast = informed.click_probability(online, 0)
        online.advance(0, np.zeros(USERS, dtype=np.int64))
        informed.click_probability(online, 1)
    assert np.allclose(forecast, rounds[0][0])
