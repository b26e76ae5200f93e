"""Defines greedy policies, which always take the best action according to a forecast.

Shapes: U all users of a round, N some of these users, C channels.
"""

import numpy as np

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact, forecast_of
from mtorl.network.predictor import Predictor
from mtorl.policy.decision import Forecast, PolicyParams, expected_utility
from mtorl.simulator.informed import Informed
from mtorl.simulator.simulator import Online
from pipelines.loop.simulated_lift import Forecasts, Policy, windows_of

GREEDY = PolicyParams(advantage_weight=1e6, exploration=0.0)  # always chooses the channel with the highest utility


def once_a_round(forecasts: Forecasts) -> Forecasts:
    """Cache the forecasts of a round."""
    held: list[tuple[Online, int, Forecast]] = []

    def of_round(online: Online, round_index: int) -> Forecast:
        if not held or held[0][0] is not online or held[0][1] != round_index:
            held[:] = [(online, round_index, forecasts(online, round_index))]
        return held[0][2]

    return of_round


def one_step(forecasts: Forecasts) -> Forecasts:
    """Remove the future value of an exposure from forecasts."""
    return lambda online, round_index: forecasts(online, round_index)._replace(future_BC2=None)


def of_predictor(predictor: Predictor, trained: Artifact) -> Forecasts:
    """Return forecasts by another model, such as LightGBM, with the inputs of the network in `trained`."""
    return lambda online, round_index: forecast_of(
        predictor.predict(windows_of(online, round_index, trained.spec)), trained.encoder
    )


def of_informed(informed: Informed) -> Forecasts:
    """Return the best possible forecasts, from the true click probabilities and mean costs."""

    def forecasts(online: Online, round_index: int) -> Forecast:
        gain_UC = informed.click_probability(online, round_index)
        return Forecast(np.zeros_like(gain_UC), gain_UC, online.expected_cost(round_index))

    return forecasts


def one_channel(forecasts: Forecasts, channel: int) -> Policy:
    """Return a policy that shows ads only on one channel, if the gain is worth the cost."""

    def of_channel(online: Online, round_index: int) -> Forecast:
        forecast = forecasts(online, round_index)
        return forecast._replace(gain_BC=_only(np.full(len(online.users), channel), forecast))

    return Policy(of_channel, GREEDY)


def mixed(choosing: Forecasts, exposing: Forecasts) -> Policy:
    """Return a policy that chooses the channel with one forecast, and decides whether to expose with another."""
    choosing = once_a_round(choosing)

    def gain_at(online: Online, round_index: int, part: slice, price: float, forecast: Forecast) -> Floats:
        utility_NC = expected_utility(choosing(online, round_index).rows(part), price)
        return _only(utility_NC.argmax(axis=1), forecast)

    return Policy(exposing, GREEDY, gain_at)


def _only(channel_N: Floats, forecast: Forecast) -> Floats:
    """Set the gain of all channels but one to 0, so that a policy shows no ads on them."""
    gain_NC = np.asarray(forecast.gain_BC)
    return np.where(np.arange(gain_NC.shape[1]) == channel_N[:, None], gain_NC, 0.0)
