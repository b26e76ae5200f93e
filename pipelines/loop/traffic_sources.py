"""Who asks the router for decisions, and how they respond: simulated users, or a replay of a real log.

A traffic source gives one opportunity per user and round, and answers the decision that is taken there.
`SimulatedTraffic` knows the outcome of every channel. `ReplayedTraffic` knows only what was logged: a decision counts
when the policy chose the logged channel, weighted by one over that channel's propensity, so that the sample stands for
all opportunities (rejection-sampling replay, Li et al. 2011, arXiv:1003.5956, in its weighted form for loggers that are
not uniform). `ShiftedTraffic` changes the context of another source, as drift would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from features.online.history import Touchpoint
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.simulator.simulator import Online


@dataclass(frozen=True)
class Response:
    """What follows one decision.

    Attributes:
        outcomes: (kind, value) pairs to report to the router; empty when nothing happened.
        weight: How much the decision counts in the verdict; 0 when its outcome is unknown.
        touchpoint: What the user's journey has grown by, outcomes included; None if nothing was shown.
    """

    outcomes: Sequence[tuple[str, float]]
    weight: float = 1.0
    touchpoint: Touchpoint | None = None


class TrafficSource(Protocol):
    """Users with opportunities, who answer the decisions taken there."""

    @property
    def users(self) -> Sequence[str]:
        """Who comes online."""

    @property
    def rounds(self) -> int:
        """Opportunities of each user."""

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Give campaign_id, context and timestamp (in the source's own time) of a user's next opportunity."""

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Answer a decision of the router."""


@dataclass(frozen=True)
class SimulatedTraffic:
    """The simulator's users, going on from where the log ends."""

    online: Online
    users: Sequence[str]
    rounds: int

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """The opportunity that the simulator has drawn for this user and round."""
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
    """The last `rounds` touchpoints of held-out users of a real log."""

    spec: DatasetSpec
    rows: dict[tuple[str, int], dict[str, Any]]
    users: Sequence[str]
    rounds: int

    @classmethod
    def from_log(
        cls, log: pd.DataFrame, propensity: pd.Series, users: Sequence[str], rounds: int, spec: DatasetSpec
    ) -> tuple[ReplayedTraffic, pd.DataFrame]:
        """Cut the last touchpoints off the users' journeys.

        Args:
            log: Canonical log, sorted by user and time.
            propensity: Probability of each row's logged channel under the logging policy.
            users: Users to replay; each keeps at least one touchpoint of history.
            rounds: Touchpoints to cut off per user.
            spec: Description of the data set.

        Returns:
            The traffic, and the log without the rows that it replays.
        """
        log = log.assign(_propensity=propensity.to_numpy())
        rows_left = log.groupby("user_id").cumcount(ascending=False)
        long_enough = log.groupby("user_id")["user_id"].transform("size") > rounds
        replayed = log["user_id"].isin(set(users)) & (rows_left < rounds) & long_enough
        round_of_row = (rounds - 1 - rows_left)[replayed]
        rows = {
            (str(row["user_id"]), int(turn)): {str(name): value for name, value in row.items()}
            for row, turn in zip(log[replayed].to_dict("records"), round_of_row, strict=True)
        }
        online = [user for user in users if (user, 0) in rows]
        return cls(spec, rows, online, rounds), log[~replayed].drop(columns="_propensity")

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

        The logged touchpoint did happen to the user, so it is in the journey whatever the policy would have done.
        """
        row = self.rows[user_id, round_index]
        outcomes = {kind: float(row[kind]) for kind in OUTCOMES}
        context = {column.name: row[column.name] for column in self.spec.context}
        touchpoint = Touchpoint(row["timestamp"], row["channel"], context, outcomes)
        if not decision["expose"]:
            return Response((), touchpoint=touchpoint)
        if decision["channel"] != row["channel"]:
            return Response([("cancel", 0.0)], weight=0.0, touchpoint=touchpoint)
        return Response(_reported(outcomes), weight=1.0 / row["_propensity"], touchpoint=touchpoint)


@dataclass(frozen=True)
class ShiftedTraffic:
    """Another source's opportunities with a context that has moved: what drift monitoring must notice.

    Numeric context moves by two standard deviations of the reference; 70 % of the users get the rarest category of
    every categorical column. Exposures are cancelled, so that this traffic spends nothing.
    """

    source: TrafficSource
    spec: DatasetSpec
    reference: pd.DataFrame
    rounds: int = 1

    @property
    def users(self) -> Sequence[str]:
        """The users of the other source."""
        return self.source.users

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """The other source's opportunity in a shifted context."""
        opportunity = self.source.opportunity(user_id, round_index)
        context = dict(opportunity["context"])
        takes_rarest = np.random.default_rng(sum(user_id.encode())).random() < 0.7
        for column in self.spec.context:
            values = self.reference[column.name]
            if column.kind == "numeric":
                context[column.name] = float(context[column.name]) + 2 * float(values.std())
            elif takes_rarest:
                context[column.name] = str(values.value_counts().idxmin())
        return {**opportunity, "context": context}

    def respond(self, user_id: str, round_index: int, decision: dict[str, Any]) -> Response:
        """Cancel an exposure: nobody is there to see it."""
        return Response([("cancel", 0.0)] if decision["expose"] else (), weight=0.0)


def _reported(outcomes: dict[str, float]) -> list[tuple[str, float]]:
    """What an advertiser's systems report of an exposure: always its cost, the rest when it happened."""
    return [(kind, value) for kind, value in outcomes.items() if value or kind == "cost"]
