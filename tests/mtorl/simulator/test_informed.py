"""Tests of the informed forecast, which gets more precise with each touchpoint."""

import numpy as np
import pytest

from mtorl.simulator.informed import Informed
from mtorl.simulator.simulator import Simulator, SimulatorConfig

USERS, ROUNDS = 3000, 4


@pytest.fixture(scope="module")
def rounds() -> list[tuple[np.ndarray, np.ndarray]]:
    simulator = Simulator(SimulatorConfig(users=USERS, seed=3))
    online = simulator.online(simulator.user_ids, ROUNDS, 5)
    informed, found = Informed(simulator), []
    for turn in range(ROUNDS):
        found.append((informed.click_probability(online, turn), online.click_probability(turn)))
        online.advance(turn, np.random.default_rng(turn).integers(-1, 4, USERS))
    return found


def test_the_forecast_is_calibrated(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for forecast, true in rounds:
        order = np.argsort(forecast, axis=None)
        for tenth in np.array_split(order, 10):
            expected, found = forecast.flat[tenth].mean(), true.flat[tenth].mean()
            # A user's four channels are not independent, so divide by four.
            error = true.flat[tenth].std() / np.sqrt(len(tenth) / 4)
            assert abs(expected - found) < 4.5 * error


def test_the_forecast_improves_with_each_touchpoint(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    errors = [np.mean((forecast - true) ** 2) / np.var(true) for forecast, true in rounds]
    assert errors[-1] < errors[0] < 0.8, "the forecast explains a part of the variance"
    assert errors[-1] > 0.2, "hidden facts stay unexplained"


def test_a_new_online_market_starts_from_the_log(rounds: list[tuple[np.ndarray, np.ndarray]]) -> None:
    simulator = Simulator(SimulatorConfig(users=USERS, seed=3))
    informed = Informed(simulator)
    for seed in (4, 5):
        online = simulator.online(simulator.user_ids, ROUNDS, seed)
        forecast = informed.click_probability(online, 0)
        online.advance(0, np.zeros(USERS, dtype=np.int64))
        informed.click_probability(online, 1)
    assert np.allclose(forecast, rounds[0][0])
