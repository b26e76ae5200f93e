"""Computes the true lift of the challenger, by simulating both policies with the same budget and pacing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact
from mtorl.log.dataset import DatasetSpec
from mtorl.log.gain import Gain
from mtorl.policy.decision import Forecast, PolicyParams, decide
from mtorl.policy.pacing import Plan, Schedule
from mtorl.simulator.market import CHANNELS
from mtorl.simulator.simulator import Online, Simulator
from mtorl.window.window import WindowBatch, instance_from_history
from serving.router.flow.features import FeatureSource
from serving.router.flow.requests import DecisionRequest

CLICK = Gain.of_spec("click")
# Number of price updates, equal to that of the router.
_UPDATES = 200

Forecasts = Callable[[Online, int], Forecast]
"""Type of a function that returns a policy's forecasts for a round, in which each user has one opportunity."""

GainAt = Callable[[Online, int, slice, float, Forecast], Floats]
"""Type of a function that returns the gain (N, C) of each channel for a slice of the users in a round, given the
current price and the forecasts for these users."""


@dataclass(frozen=True)
class Policy:
    """A policy to simulate; `explore` is the share of its decisions that are made at random."""

    forecasts: Forecasts
    params: PolicyParams
    gain_at: GainAt | None = None
    explore: float = 0.0


@dataclass(frozen=True)
class Played:
    """The result of simulating a policy.

    Attributes:
        value: Expected gain per decision.
        error: Standard error of the value, over users.
        spent_share: Spend as a share of the budget.
    """

    value: float
    error: float
    spent_share: float


def play(
    simulator: Simulator,
    policy: Policy,
    users: Sequence[str],
    rounds: int,
    seed: int,
    budget: float,
    price: float,
    repetitions: int = 1,
    gain: Gain = CLICK,
    newcomers: bool = False,
) -> Played:
    """Simulate a policy under a budget, in the same way as the router applies it.

    Args:
        rounds: Number of opportunities per user.
        budget: Budget of the arm, in currency units per decision.
        price: Initial price of the budget, in units of gain per currency unit.
        repetitions: Number of simulations to average.
        newcomers: Whether the users have no history.
    """
    decisions = rounds * len(users)
    grain = max(simulator.cost_cap.values())
    plan = Plan(budget * decisions, Schedule.even(0.0, float(decisions)), grain=grain)
    at_once = max(1, decisions // _UPDATES)
    gain_U, spent = np.zeros(len(users)), np.zeros(repetitions)
    for repetition in range(repetitions):
        online = simulator.online(users, rounds, seed + repetition, newcomers)
        state = plan.start(price)
        for round_index in range(rounds):
            forecast, u_U = policy.forecasts(online, round_index), online.u(round_index)
            v_U = online.u(round_index, "explore")
            for first in range(0, len(users), at_once):
                part = slice(first, min(first + at_once, len(users)))
                now = plan.price(state)
                expected = forecast.rows(part)
                if policy.gain_at is not None:
                    gain_NC = policy.gain_at(online, round_index, part, now, expected)
                    expected = expected._replace(gain_BC=gain_NC)
                made = decide(expected, policy.params, u_U[part], price_BC=now)
                wanted_N = np.where(made.expose_B, made.channel_B, -1)
                # A random decision chooses each channel with equal probability, and always shows an ad.
                if policy.explore:
                    by_chance_N = (v_U[part] / policy.explore * len(CHANNELS)).astype(int)
                    wanted_N = np.where(v_U[part] < policy.explore, by_chance_N, wanted_N)
                found = online.advance(round_index, wanted_N, plan.budget - spent[repetition], part)
                spent[repetition] += found["cost"].sum()
                gain_U[part] += gain.of({name: found[f"expected_{name}"] for name in gain.names})
                state = plan.update(state, round_index * len(users) + part.stop, float(spent[repetition]))
    value_U = gain_U / (rounds * repetitions)
    return Played(
        value=float(value_U.mean()),
        error=float(value_U.std(ddof=1) / np.sqrt(len(users))),
        spent_share=float(spent.mean() / plan.budget),
    )


def true_lift(
    simulator: Simulator,
    arms: Mapping[str, Policy],
    users: Sequence[str],
    rounds: int,
    budget: float,
    price: float,
    seed: int,
    gain: Gain = CLICK,
) -> dict[str, float]:
    """Simulate both arms on the same users, and return their values and the lift in gain per decision.

    The standard error is an upper bound, because it ignores the correlation from shared random numbers.
    """
    everybody = list(users)
    played = {name: play(simulator, arm, everybody, rounds, seed, budget, price, 3, gain) for name, arm in arms.items()}
    incumbent, challenger = played["incumbent"], played["challenger"]
    return {
        "true_incumbent": incumbent.value,
        "true_challenger": challenger.value,
        "true_lift": challenger.value - incumbent.value,
        "true_lift_se": (incumbent.error**2 + challenger.error**2) ** 0.5,
    }


def policy_of(artifact: Artifact, store: FeatureSource | None, explore: float = 0.0) -> Policy:
    """Return the policy of an artifact, which decides for many users at once without servers."""

    def forecasts(online: Online, round_index: int) -> Forecast:
        return artifact.forecast(windows_of(online, round_index, artifact.spec, store))

    return Policy(forecasts, artifact.policy, explore=explore)


def windows_of(online: Online, round_index: int, spec: DatasetSpec, store: FeatureSource | None = None) -> WindowBatch:
    """Build the windows of all users for one round."""
    rows = online.rows(round_index)
    stored: list[Any] = [{}] * len(rows)
    if spec.features:
        assert store is not None, "the data set's description names stored features"
        requests = [DecisionRequest(row["user_id"], row["campaign_id"], row["context"], row["at"]) for row in rows]
        stored = [user.aggregates for user in store.read(requests)]
    instances = [
        instance_from_history(row["history"], row["context"], row["static"], spec, row["at"], known)
        for row, known in zip(rows, stored, strict=True)
    ]
    return WindowBatch.from_instances(instances, spec)
