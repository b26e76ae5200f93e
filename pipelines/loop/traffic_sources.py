"""Defines traffic sources, which generate opportunities from a simulator or a real log.

A traffic source gives each user a sequence of opportunities, and answers the router's decisions with outcomes.
`SimulatedTraffic` can draw the outcome of every channel. `ReplayedTraffic` has only logged outcomes, so a decision
counts only if the policy chose the logged channel. Its weight is 1 / propensity of this channel, so that the sample
represents all opportunities (rejection-sampling replay, Li et al. 2011, arXiv:1003.5956, in the weighted form for
non-uniform logging policies). `RepeatedTraffic` repeats another source; `ShiftedTraffic` also shifts the context.
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
    """An exposure of a user with its outcomes; `known` has the time at which each late outcome became known."""

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, float]
    known: Mapping[str, datetime] = field(default_factory=dict)

    def records(self, decision: str) -> list[dict[str, Any]]:
        """Convert the exposure and its outcomes to decision-log records for the online history."""
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
    """Result of one decision.

    Attributes:
        outcomes: (kind, value) pairs to report to the router.
        weight: Weight of the decision in the verdict; 0 if its outcome is unknown.
        touchpoint: The user's new touchpoint with its outcomes; None if nothing was shown.
    """

    outcomes: Sequence[tuple[str, float]]
    weight: float = 1.0
    touchpoint: Touchpoint | None = None


class TrafficSource(Protocol):
    """A source of users with opportunities, and of the results of decisions."""

    @property
    def opportunities(self) -> Mapping[str, int]:
        """Number of opportunities by user."""

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return campaign_id, context and timestamp (in the source's time) of a user's next opportunity."""

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Return the result of a decision by the router."""


@dataclass(frozen=True)
class SimulatedTraffic:
    """Opportunities of the simulator's users after the end of the log."""

    online: Online
    opportunities: Mapping[str, int]

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the opportunity that the simulator has drawn."""
        return self.online.opportunity(user_id, round_index)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Draw the outcome. Without an exposure, there are no outcomes and no touchpoint."""
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
    """Replay of a random stretch, possibly empty, of each held-out user's journey; see `stretch_of_each`."""

    spec: DatasetSpec
    rows: dict[tuple[str, int], dict[str, Any]]
    opportunities: Mapping[str, int]

    @classmethod
    def from_log(
        cls, log: pd.DataFrame, propensity: pd.Series, users: Sequence[str], rounds: int, spec: DatasetSpec, seed: int
    ) -> tuple[ReplayedTraffic, pd.DataFrame]:
        """Draw the touchpoints to replay, with the same probability for each touchpoint of the users.

        Args:
            log: Canonical log, sorted by user and time.
            propensity: Probability of each row's logged channel under the logging policy.
            rounds: Average number of touchpoints to replay per user; all touchpoints, if there are fewer.

        Returns the traffic, and the log with only the touchpoints before each user's stretch.
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
        """Return the logged touchpoint without its channel and outcomes."""
        row = self.rows[user_id, round_index]
        return {
            "campaign_id": row["campaign_id"],
            "context": {column.name: row[column.name] for column in self.spec.context},
            "timestamp": row["timestamp"],
        }

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Return the logged outcomes if the decision exposes the logged channel.

        In either case, the touchpoint is added to the journey, because the user has really seen the ad.
        """
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
    """Traffic that repeats users' first opportunity, to test which model answers, and cancels every exposure."""

    source: TrafficSource
    most_users: int
    times: int = 1

    @property
    def opportunities(self) -> Mapping[str, int]:
        """`times` opportunities for each of the first `most_users` users."""
        return dict.fromkeys(list(self.source.opportunities)[: self.most_users], self.times)

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the user's first opportunity."""
        return self.source.opportunity(user_id, 0)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Cancel an exposure, because no user sees it."""
        return Response([("cancel", 0.0)] if decision["expose"] else (), weight=0.0)


@dataclass(frozen=True, kw_only=True)
class ShiftedTraffic(RepeatedTraffic):
    """Traffic of another source with a shifted context.

    Numeric context columns move by two standard deviations of the reference. For 70 % of the users, each categorical
    column gets its rarest category.
    """

    spec: DatasetSpec
    reference: pd.DataFrame

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return the user's first opportunity with a shifted context."""
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
    """Select consecutive touchpoints of each journey, each with probability exactly `share`. Returns a mask (N,).

    The steps of a journey (`step_N` of `length_N`) are spread evenly over [0, 1 - share). The selected steps lie in an
    interval of length `share` that ends at the user's `place_N`, which is uniform in [0, 1). A simpler rule would be
    biased: stretches of equal length would rarely cover the ends of a journey, and equally many touchpoints per user
    would overweight short journeys.
    """
    at_N = (1.0 - share) * np.asarray(step_N) / np.asarray(length_N)
    return np.asarray((at_N <= place_N) & (place_N < at_N + share))


def _reported(outcomes: dict[str, float]) -> list[tuple[str, float]]:
    """Return the outcomes that an advertiser reports for an exposure: its cost, and each outcome that is not 0."""
    return [(kind, value) for kind, value in outcomes.items() if value or kind == "cost"]
