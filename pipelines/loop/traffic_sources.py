"""Traffic sources: simulated users, or a replay of a real log.

A traffic source gives each user some opportunities, one after the other, and answers the decisions taken there.
`SimulatedTraffic` knows the outcome of every channel. `ReplayedTraffic` knows only what was logged: a decision counts
when the policy chose the logged channel, weighted by one over that channel's propensity, so that the sample stands for
all opportunities (rejection-sampling replay, Li et al. 2011, arXiv:1003.5956, in its weighted form for loggers that are
not uniform). `ShiftedTraffic` changes the context of another source, as drift would; `RepeatedTraffic` repeats it.
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
    """An exposure of a user with its outcomes, and the times of outcomes that became known later."""

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, float]
    known: Mapping[str, datetime] = field(default_factory=dict)

    def records(self, decision: str) -> list[dict[str, Any]]:
        """The exposure and its outcomes, as records of the decision log that a history takes."""
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
    """Outcome of one decision.

    Attributes:
        outcomes: (kind, value) pairs to report to the router.
        weight: How much the decision counts in the verdict; 0 when its outcome is unknown.
        touchpoint: The user's new touchpoint, outcomes included; None if nothing was shown.
    """

    outcomes: Sequence[tuple[str, float]]
    weight: float = 1.0
    touchpoint: Touchpoint | None = None


class TrafficSource(Protocol):
    """Users with opportunities, who answer the decisions taken there."""

    @property
    def opportunities(self) -> Mapping[str, int]:
        """Number of opportunities by user."""

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Give campaign_id, context and timestamp (in the source's own time) of a user's next opportunity."""

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Answer a decision of the router."""


@dataclass(frozen=True)
class SimulatedTraffic:
    """The simulator's users, from the end of the log on."""

    online: Online
    opportunities: Mapping[str, int]

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """The opportunity that the simulator has drawn."""
        return self.online.opportunity(user_id, round_index)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Draw the outcome; an opportunity that was not taken has none, and leaves no touchpoint."""
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
    """A stretch of the journey of each held-out user of a real log, or nothing of it; see `stretch_of_each`."""

    spec: DatasetSpec
    rows: dict[tuple[str, int], dict[str, Any]]
    opportunities: Mapping[str, int]

    @classmethod
    def from_log(
        cls, log: pd.DataFrame, propensity: pd.Series, users: Sequence[str], rounds: int, spec: DatasetSpec, seed: int
    ) -> tuple[ReplayedTraffic, pd.DataFrame]:
        """Choose what is replayed, at random: every touchpoint of the users is as likely as any other.

        Args:
            log: Canonical log, sorted by user and time.
            propensity: Probability of each row's logged channel under the logging policy.
            rounds: Touchpoints to replay per user, on average; more than there are means all.

        Returns the traffic, and the log before it: of a replayed user only what precedes the stretch.
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
        """The logged touchpoint, without what happened at it."""
        row = self.rows[user_id, round_index]
        return {
            "campaign_id": row["campaign_id"],
            "context": {column.name: row[column.name] for column in self.spec.context},
            "timestamp": row["timestamp"],
        }

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Give the logged outcome if the logged channel was chosen.

        The logged touchpoint did happen to the user, so it is in the journey for every policy.
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
    """Repeats the first opportunity of some users of another source, to see which model answers; spends nothing."""

    source: TrafficSource
    most_users: int
    times: int = 1

    @property
    def opportunities(self) -> Mapping[str, int]:
        """One opportunity for each time of each of the first users."""
        return dict.fromkeys(list(self.source.opportunities)[: self.most_users], self.times)

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """The user's first opportunity."""
        return self.source.opportunity(user_id, 0)

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Cancel an exposure: no user sees it."""
        return Response([("cancel", 0.0)] if decision["expose"] else (), weight=0.0)


@dataclass(frozen=True, kw_only=True)
class ShiftedTraffic(RepeatedTraffic):
    """Traffic of another source in a shifted context.

    Numeric context moves by two standard deviations of the reference; 70 % of the users get the rarest category of
    every categorical column.
    """

    spec: DatasetSpec
    reference: pd.DataFrame

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """The user's first opportunity in a shifted context."""
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
    """Rows of a stretch of neighbouring touchpoints of each journey; any row is one with probability `share`, exactly.

    The steps of a journey (`step_N` of `length_N`) lie evenly in [0, 1 - share). Those are taken that lie in an
    interval of the length `share` that ends at the user's place, uniform in [0, 1). Stretches of one length would
    seldom cover the ends of a journey; as many touchpoints of each user would overstate short journeys.
    """
    at_N = (1.0 - share) * np.asarray(step_N) / np.asarray(length_N)
    return np.asarray((at_N <= place_N) & (place_N < at_N + share))


def _reported(outcomes: dict[str, float]) -> list[tuple[str, float]]:
    """Outcomes of an exposure as an advertiser's systems report them: always its cost, the rest when it happened."""
    return [(kind, value) for kind, value in outcomes.items() if value or kind == "cost"]
