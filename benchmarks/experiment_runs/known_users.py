"""Experiments on users of the project's simulator of whom something is known beforehand: how many of them it takes.

The incumbent serves alone for some days, one opportunity a user and day, and its users have a touchpoint log besides,
which ends before that. Then the experiment lasts as long as a user's outcomes take: each user comes once, in an order
that is drawn, with everything that it does under its arm. Both arms of each user are simulated, so the true lift is
known. The challenger is the incumbent but for a share of the decisions, in which it takes the channel with the highest
true probability of a click.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiment_runs.adjusted import at_looks
from mtorl.arrays import Ints
from mtorl.experiment.adjustment import figures_with, standardised
from mtorl.experiment.statistics import confidence_sequence, estimate
from mtorl.experiment.sums import Floats
from mtorl.simulator.market import CHANNELS, Draws, pick
from mtorl.simulator.simulator import Online, Simulator, SimulatorConfig

POWER, LOOKS = 0.8, 400
_SMOOTHED = 10.0  # touchpoints of everybody that an estimate of one user's click rates begins with


class Case(NamedTuple):
    """An incumbent, how long it is known and tried, and how often the challenger knows better."""

    incumbent: str
    """personal: the channel that a user clicked most often in the log. one channel: the same for everybody. drawn: from
    the logging policy."""
    days_before: int
    days: int
    better: float
    """Share of the decisions."""


CASES = (
    Case("personal", 7, 14, 0.04),
    Case("personal", 14, 14, 0.04),
    Case("personal", 28, 14, 0.04),
    Case("personal", 28, 28, 0.04),
    Case("one channel", 28, 14, 0.015),
    Case("drawn", 28, 14, 0.04),
)


def needed(case: Case, users: int, runs: int, seed: int = 7) -> list[dict[str, Any]]:
    """How many users it takes to find the challenger better in 80 % of the runs, with each kind of covariate."""
    market = _Played(case, users, seed)
    of_known = {name: market.needed(covariates, runs, seed) for name, covariates in market.known.items()}
    _, variance = of_known["nothing"]
    return [
        {
            **case._asdict(),
            "known": name,
            "lift": market.lift,
            "clicks_per_decision": market.rate,
            "users": users_needed,
            "variance_ratio": of_these / variance,
            "runs": runs,
        }
        for name, (users_needed, of_these) in of_known.items()
    ]


class _Played:
    def __init__(self, case: Case, users: int, seed: int) -> None:
        simulator = Simulator(SimulatorConfig(users=users, seed=seed))
        log = simulator.log()
        code = log["channel"].map({name: i for i, name in enumerate(CHANNELS)}).to_numpy()
        user = log["user_id"].str.slice(1).astype(int).to_numpy()
        clicks_UC, seen_UC = np.zeros((users, len(CHANNELS))), np.zeros((users, len(CHANNELS)))
        np.add.at(clicks_UC, (user, code), log["click"].to_numpy())
        np.add.at(seen_UC, (user, code), 1.0)
        overall_C = clicks_UC.sum(0) / seen_UC.sum(0)
        rate_UC = (clicks_UC + _SMOOTHED * overall_C) / (seen_UC + _SMOOTHED)
        self._case, self._simulator = case, simulator
        self._chosen_U = rate_UC.argmax(1) if case.incumbent == "personal" else np.full(users, overall_C.argmax())
        before_U, incumbent_U = self._play(better=0.0)
        _, challenger_U = self._play(better=case.better)
        self._clicks = np.stack([challenger_U, incumbent_U], -1)
        self.rate = float(incumbent_U.mean() / case.days)
        self.lift = float(challenger_U.mean() / incumbent_U.mean() - 1.0)
        past = before_U[:, None]  # everybody has as many decisions
        forecast = (
            (self._propensity() * rate_UC).sum(1, keepdims=True)
            if case.incumbent == "drawn"
            else np.take_along_axis(rate_UC, self._chosen_U[:, None], 1)
        )
        touchpoints = np.concatenate([clicks_UC.sum(1, keepdims=True), seen_UC.sum(1, keepdims=True), forecast], 1)
        self.known = {
            "nothing": np.zeros((users, 0)),
            "forecast": forecast,
            "touchpoints and forecast": touchpoints,
            "past": past,
            "past, touchpoints and forecast": np.concatenate([past, touchpoints], 1),
        }

    def _propensity(self) -> Floats:
        return self._simulator._market.propensity_UC

    def _play(self, better: float) -> tuple[Floats, Floats]:
        """Clicks of each user before the experiment and in it."""
        days_before, days = self._case.days_before, self._case.days
        online = Online(self._simulator, self._simulator.user_ids, days_before + days, seed=1)
        draws, user_U = Draws(5), np.arange(len(self._simulator.user_ids))
        clicks = np.zeros((2, len(user_U)))
        for day in range(days_before + days):
            channel_U: Ints = self._chosen_U
            if self._case.incumbent == "drawn":
                channel_U = pick(self._propensity(), online.u(day))
            if day >= days_before and better:
                knows_U = draws("better", user_U, day) < better
                channel_U = np.where(knows_U, online.click_probability(day).argmax(1), channel_U)
            clicks[int(day >= days_before)] += online.advance(day, channel_U)["click"]
        return clicks[0], clicks[1]

    def needed(self, covariates: Floats, runs: int, seed: int) -> tuple[int | None, float]:
        """Users of both arms together, None: more than were played; and the lift's variance with all of them."""
        users, known = len(self._clicks), standardised(covariates)
        looks = np.unique(np.linspace(users / LOOKS, users, LOOKS).astype(np.int64))
        starts, first, variance = np.concatenate([[0], looks[:-1]]), np.zeros(len(looks)), 0.0
        for run in range(runs):
            rng = np.random.default_rng([seed, run])
            drawn, challenger = rng.integers(users, size=users), rng.random(users) < 0.5
            clicks = np.where(challenger, *self._clicks[drawn].T)
            figures = np.stack([clicks, np.full(users, float(self._case.days))], -1)
            found = estimate(at_looks(figures_with(figures, known[drawn]), challenger, starts))
            low, _ = confidence_sequence(found.value, found.se, found.effective_users, alpha=0.05, tightest_at=2_000)
            better = low > 0.0
            first[int(better.argmax()) :] += bool(better.any())
            variance += float(found.se[-1]) ** 2 / runs
        reached = first / runs >= POWER
        return (int(looks[reached.argmax()]) if reached.any() else None), variance
