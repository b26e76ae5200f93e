"""Replays the journeys of logged users as if a policy had decided at another price.

    replay = Replay.of(rows, model, explore)          # rows: decisions, as `served_decisions` reads them
    played = replay.at(0.3)                           # gain per currency unit
    played.exposing_BC, played.forecast_BC, played.cost_BC

A policy that spends half as much as the logging policy makes fewer exposures, so its users have other histories than in
the log. The replay therefore repeats the opportunities of each user in order, with the history that the replayed policy
creates. At each opportunity, the network forecasts and the serving rule decides. The outcome of an exposure is copied
from a random logged exposure, so that the expected gain equals the calibrated forecast (`response.py`). The policy
knows this outcome at the user's next opportunity. Stored features keep their logged values.

Shapes: B decisions, C channels, N the decisions of one turn (one for each user), T the tokens of a window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mtorl.arrays import Bools, Floats, Ints
from mtorl.artifact.artifact import Artifact
from mtorl.evaluation.exploration_plan import with_exploration
from mtorl.evaluation.logged_rows import PolicyOnLog
from mtorl.evaluation.response import Response
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.decision import Forecast, action_probabilities
from mtorl.policy.exploration import Exploration
from mtorl.window.history import journey_gap_us
from mtorl.window.window import Instance, WindowBatch


@dataclass(frozen=True)
class Played:
    """The exposure probabilities and the forecasts of a policy at each decision of a replay."""

    exposing_BC: Floats  # probability of drawing and exposing each channel
    forecast_BC: Floats  # forecast gain before calibration
    cost_BC: Floats  # expected cost in currency units


@dataclass(frozen=True)
class Replay:
    """The logged decisions of users, from which a replay at any price starts."""

    model: Artifact
    explore: Exploration | None
    windows: Sequence[Instance]  # the decisions of one user are consecutive
    user_B: Ints
    logged: Forecast  # forecasts for the logged windows
    channel_B: Ints
    exposed_B: Bools
    gain_B: Floats
    cost_factor_C: Floats  # logged cost of each channel divided by its forecast cost
    response: Response
    outcomes: pd.DataFrame  # logged outcomes, from which a replay draws
    seed: int = 0

    @classmethod
    def of(cls, rows: pd.DataFrame, model: Artifact, explore: Exploration | None, seed: int = 0) -> Replay:
        """Create a replay from logged decisions, sorted by user and time."""
        spec = model.spec
        windows = [json.loads(text) for text in rows["window"]]
        logged = _forecast(model, windows)
        exposed_B = rows["exposed"].to_numpy(dtype=np.bool_)
        channel_B = pd.Index(spec.channels).get_indexer(pd.Index(rows["channel"])).astype(np.int64)
        at = np.flatnonzero(exposed_B), channel_B[exposed_B]
        forecast_N, gain_B = np.asarray(logged.gain_BC)[at], rows["gain"].to_numpy(dtype=np.float64)
        paid_C, expected_C = (
            np.bincount(at[1], values, len(spec.channels))
            for values in (rows["cost"].to_numpy(dtype=np.float64)[exposed_B], np.asarray(logged.cost_BC)[at])
        )
        return cls(
            model=model,
            explore=explore,
            windows=windows,
            user_B=pd.factorize(rows["user_id"])[0].astype(np.int64),
            logged=logged,
            channel_B=channel_B,
            exposed_B=exposed_B,
            gain_B=gain_B,
            cost_factor_C=np.divide(paid_C, expected_C, out=np.ones(len(paid_C)), where=expected_C > 0),
            response=Response.fit(forecast_N, at[1], gain_B[exposed_B], len(spec.channels)),
            outcomes=rows.loc[exposed_B, list(spec.window_outcomes)].reset_index(drop=True),
            seed=seed,
        )

    def refitted(self, weight_B: Floats) -> Response:
        """Calibrate the forecasts again, with a weight for each decision."""
        at = np.flatnonzero(self.exposed_B), self.channel_B[self.exposed_B]
        forecast_N, channels = np.asarray(self.logged.gain_BC)[at], len(self.model.spec.channels)
        return Response.fit(forecast_N, at[1], self.gain_B[self.exposed_B], channels, weight_B[self.exposed_B])

    def as_logged(self, price: float) -> Played:
        """Return the policy's decisions at a price if users keep their logged histories."""
        return self._decide(self.logged, price)

    def at(self, price: float) -> Played:
        """Replay the journeys of all users at a price, and return the policy's decisions.

        All prices use the same random numbers, so that their results can be compared.
        """
        u_B3 = np.random.default_rng(self.seed).random((len(self.windows), 3))
        parts, order = [], []
        pasts: dict[int, Instance] = {}
        for rows in self._turns():
            windows = [self._window(b, pasts.get(int(self.user_B[b]))) for b in rows]
            made = self._decide(_forecast(self.model, windows), price)
            channel_N = (u_B3[rows, :1] >= made.exposing_BC.cumsum(axis=1)).sum(
                axis=1
            )  # the number of channels means no exposure
            self._remember(pasts, rows, windows, channel_N, made, u_B3[rows, 1:])
            parts.append(made)
            order.append(rows)
        back = np.argsort(np.concatenate(order))
        columns = ("exposing_BC", "forecast_BC", "cost_BC")
        return Played(*(np.concatenate([getattr(part, name) for part in parts])[back] for name in columns))

    def _decide(self, forecast: Forecast, price: float) -> Played:
        policy = PolicyOnLog(*action_probabilities(forecast, self.model.policy, price_BC=price))
        scope, share = (self.explore.scope, self.explore.share) if self.explore else ("both", 0.0)
        cost_BC = np.asarray(forecast.cost_BC) * self.cost_factor_C
        return Played(with_exploration(policy, scope, share), np.asarray(forecast.gain_BC), cost_BC)

    def _turns(self) -> list[Ints]:
        """Return the rows of all users' first decisions, then those of their second decisions, and so on."""
        turn_B = pd.Series(self.user_B).groupby(self.user_B).cumcount().to_numpy()
        return np.split(np.argsort(turn_B, kind="stable"), np.bincount(turn_B).cumsum()[:-1])

    def _window(self, b: int, past: Instance | None) -> Instance:
        """Return the window of decision `b`, with the user's replayed history if there is one."""
        logged, spec = self.windows[b], self.model.spec
        if past is None:
            return logged
        newest = past["prev_timestamp"][-1]
        if newest is not None and logged["timestamp"] - newest > journey_gap_us(spec):
            past = _nothing(spec)
        kept = slice(-spec.window, None)
        context = {name: [*past["context"][name], now[-1]][kept] for name, now in logged["context"].items()}
        return {**logged, **{name: past[name][kept] for name in _columns(spec)}, "context": context}

    def _remember(
        self,
        pasts: dict[int, Instance],
        rows: Ints,
        windows: Sequence[Instance],
        channel_N: Ints,
        made: Played,
        uv_N2: Floats,
    ) -> None:
        """Add the exposures of one turn to the users' replayed histories (`pasts`), with outcomes drawn at random."""
        spec = self.model.spec
        chosen = np.arange(len(rows)), np.minimum(channel_N, len(spec.channels) - 1)
        outcomes = self._draw(self.response.gain(made.forecast_BC)[chosen], uv_N2)
        outcomes["cost"] = made.cost_BC[chosen]
        listed = dict(zip(_columns(spec)[2:], outcomes.to_numpy(dtype=np.float64).T.tolist(), strict=True))
        for i, (user, window) in enumerate(zip(self.user_B[rows].tolist(), windows, strict=True)):
            if channel_N[i] < len(spec.channels):
                shown = {name: values[i] for name, values in listed.items()}
                shown |= {"prev_channel": spec.channels[channel_N[i]], "prev_timestamp": window["timestamp"]}
                pasts[user] = {name: [*window[name], value] for name, value in shown.items()}
                pasts[user]["context"] = window["context"]
            elif user not in pasts:
                pasts[user] = {name: window[name] for name in _columns(spec)}
                pasts[user]["context"] = {name: values[:-1] for name, values in window["context"].items()}

    def _draw(self, expected_N: Floats, uv_N2: Floats) -> pd.DataFrame:
        """Copy an outcome from a random logged exposure, so that the expected gain is `expected_N`."""
        gain_E = self.gain_B[self.exposed_B]
        gained, others = np.flatnonzero(gain_E > 0), np.flatnonzero(gain_E <= 0)
        with_gain_N = uv_N2[:, 0] * gain_E[gained].mean() < expected_N if len(gained) else np.zeros(len(uv_N2), bool)
        rows = np.zeros(len(uv_N2), dtype=np.int64)
        for which_N, pool in ((with_gain_N, gained), (~with_gain_N, others if len(others) else gained)):
            rows[which_N] = pool[(uv_N2[which_N, 1] * len(pool)).astype(np.int64)]
        return self.outcomes.iloc[rows].reset_index(drop=True)


def _forecast(model: Artifact, windows: Sequence[Instance]) -> Forecast:
    forecast = model.forecast(WindowBatch.from_instances(windows, model.spec))
    return forecast._replace(gain_BC=np.maximum(forecast.gain_BC, 0.0))


def _columns(spec: DatasetSpec) -> list[str]:
    return ["prev_channel", "prev_timestamp", *(f"prev_{name}" for name in spec.window_outcomes)]


def _nothing(spec: DatasetSpec) -> dict[str, Any]:
    started: dict[str, Any] = {name: [0.0] for name in _columns(spec)}
    empty: dict[str, list[Any]] = {column.name: [] for column in spec.context}
    return {**started, "prev_channel": [None], "prev_timestamp": [None], "context": empty}
