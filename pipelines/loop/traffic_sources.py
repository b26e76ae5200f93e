"""Defines traffic sources: simulated or replayed users, who send requests and respond to decisions with outcomes.

The replay is rejection sampling (Li et al. 2011, arXiv:1003.5956), weighted for non-uniform logging policies: a
decision counts only if the policy chose the logged channel, with the weight 1 / propensity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mtorl.arrays import Bools
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.simulator.simulator import Online


@dataclass(frozen=True)
class Touchpoint:
    """An ad that was shown to a user, with its outcomes.

    Attributes:
        known: Times at which late outcomes became known, by outcome.
    """

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, float]
    known: Mapping[str, datetime] = field(default_factory=dict)

    def records(self, decision: str) -> list[dict[str, Any]]:
        """Convert the exposure and its outcomes to decision-log records."""
        at, own = self.timestamp, {"decision_id": decision}
        exposure = {"request_time": at.isoformat(), "channel": self.channel, "context": self.context, **own}
        known = {kind: self.known.get(kind, at).isoformat() for kind in self.outcomes}
        outcomes = (
            {"event_id": f"{decision}-{kind}", "kind": kind, "value": value, "received_time": known[kind], **own}
            for kind, value in self.outcomes.items()
        )
        return [exposure, *outcomes]


@dataclass(frozen=True)
class Response:
    """The response of a user to one decision.

    Attributes:
        outcomes: Outcomes to report to the router, as pairs of kind and value.
        weight: Weight of the decision in the verdict. It is 0 if the outcome is unknown.
        touchpoint: The user's new touchpoint. None means that no ad was shown.
    """

    outcomes: Sequence[tuple[str, float]]
    weight: float = 1.0
    touchpoint: Touchpoint | None = None


class TrafficSource(Protocol):
    """The users of a run: their opportunities, and their responses to decisions."""

    @property
    def opportunities(self) -> Mapping[str, int]:
        """Return the number of opportunities of each user."""

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return a user's next opportunity: `campaign_id`, `context` and `timestamp`."""

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Return the user's response to a decision of the router."""


@dataclass(frozen=True)
class SimulatedTraffic:
    """Traffic of simulated users, who continue after the end of the log."""

    online: Online
    opportunities: Mapping[str, int]

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the opportunity that the simulator has drawn for this user and round."""
        return self.online.opportunity(user_id, round_index)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Draw the outcomes of a decision. Without an ad, there are none."""
        channel = decision["channel"] if decision["expose"] else None
        outcome = self.online.step(user_id, round_index, channel)
        if channel is None:
            return Response(())
        opportunity = self.opportunity(user_id, round_index)
        outcomes = {kind: float(getattr(outcome, kind)) for kind in OUTCOMES}
        touchpoint = Touchpoint(opportunity["timestamp"], channel, opportunity["context"], outcomes)
        return Response(_reported(outcomes), touchpoint=touchpoint)


@dataclass(frozen=True)
class ReplayedTraffic:
    """Traffic that replays a random part of each held-out user's journey."""

    spec: DatasetSpec
    rows: dict[tuple[str, int], dict[str, Any]]
    opportunities: Mapping[str, int]

    @classmethod
    def from_log(
        cls, log: pd.DataFrame, propensity: pd.Series, users: Sequence[str], rounds: int, spec: DatasetSpec, seed: int
    ) -> tuple[ReplayedTraffic, pd.DataFrame]:
        """Draw the touchpoints to replay. Each touchpoint of the users has the same probability.

        Args:
            log: Canonical log, sorted by user and time.
            propensity: Probability of each row's logged channel under the logging policy.
            rounds: Average number of touchpoints to replay per user.

        Returns:
            The traffic, and the log without each user's first replayed touchpoint and all later ones.
        """
        journeys = log.assign(_propensity=propensity.to_numpy())[log["user_id"].isin(set(users))]
        by_user = journeys.groupby("user_id", sort=False)
        length, place_U = by_user["user_id"].transform("size"), np.random.default_rng(seed).random(by_user.ngroups)
        share = min(1.0, rounds * by_user.ngroups / len(journeys))
        chosen = stretch_of_each(by_user.cumcount(), length, share, place_U[by_user.ngroup()])
        replayed = journeys[chosen]
        turns = replayed.groupby("user_id", sort=False).cumcount()
        rows = {
            (str(row["user_id"]), int(turn)): {str(name): value for name, value in row.items()}
            for row, turn in zip(replayed.to_dict("records"), turns, strict=True)
        }
        begun = pd.Series(chosen, journeys.index).groupby(journeys["user_id"], sort=False).cummax()
        return cls(spec, rows, Counter(user for user, _ in rows)), log.drop(index=journeys.index[begun])

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the logged touchpoint, without its channel and its outcomes."""
        row = self.rows[user_id, round_index]
        return {
            "campaign_id": row["campaign_id"],
            "context": {column.name: row[column.name] for column in self.spec.context},
            "timestamp": row["timestamp"],
        }

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Return the logged outcomes if the decision exposes the logged channel; otherwise none."""
        row = self.rows[user_id, round_index]
        outcomes = {kind: float(row[kind]) for kind in self.spec.window_outcomes}
        context = self.opportunity(user_id, round_index)["context"]
        known = {name: row[time] for name, time in self.spec.outcome_times.items() if outcomes[name]}
        touchpoint = Touchpoint(row["timestamp"], row["channel"], context, outcomes, known)
        if not decision["expose"]:
            return Response((), touchpoint=touchpoint)
        if decision["channel"] != row["channel"]:
            return Response([("cancel", 0.0)], weight=0.0, touchpoint=touchpoint)
        return Response(_reported(outcomes), weight=1.0 / row["_propensity"], touchpoint=touchpoint)


@dataclass(frozen=True)
class RepeatedTraffic:
    """Traffic that repeats the first request of users, to find out which model answers."""

    source: TrafficSource
    most_users: int
    times: int = 1

    @property
    def opportunities(self) -> Mapping[str, int]:
        """Return `times` opportunities for each of the first `most_users` users."""
        return dict.fromkeys(list(self.source.opportunities)[: self.most_users], self.times)

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the user's first opportunity, in every round."""
        return self.source.opportunity(user_id, 0)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Cancel the exposure, because no user sees the ad."""
        return Response([("cancel", 0.0)] if decision["expose"] else (), weight=0.0)


@dataclass(frozen=True, kw_only=True)
class ShiftedTraffic(RepeatedTraffic):
    """Traffic that repeats the first requests of users with a shifted context.

    Numeric columns increase by two standard deviations, and 70 % of the users get the rarest categories.
    """

    spec: DatasetSpec
    reference: pd.DataFrame

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the user's first opportunity, with a shifted context."""
        opportunity = self.source.opportunity(user_id, 0)
        context = dict(opportunity["context"])
        takes_rarest = np.random.default_rng(sum(user_id.encode())).random() < 0.7
        for column in self.spec.context:
            values = self.reference[column.name]
            if column.kind == "numeric":
                context[column.name] = float(context[column.name]) + 2 * float(values.std())
            elif takes_rarest:
                context[column.name] = str(values.value_counts().idxmin())
        return {**opportunity, "context": context}


def stretch_of_each(step_N: ArrayLike, length_N: ArrayLike, share: float, place_N: ArrayLike) -> Bools:
    """Select consecutive touchpoints of each journey, so that each touchpoint is selected with probability `share`.

    Returns a mask (N,). `place_N` is uniformly random in [0, 1), with the same number for all touchpoints of a user.
    """
    at_N = (1.0 - share) * np.asarray(step_N) / np.asarray(length_N)
    return np.asarray((at_N <= place_N) & (place_N < at_N + share))


def _reported(outcomes: dict[str, float]) -> list[tuple[str, float]]:
    return [(kind, value) for kind, value in outcomes.items() if value or kind == "cost"]
