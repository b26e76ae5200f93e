"""Logs to take a reference from, and periods of other users in which nothing has drifted.

    for name, period in source.periods(split, users, number): ...

A source is split several times: each split has a reference of its own, whose luck all of its periods share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from mtorl.drift.reference import stretches
from mtorl.log.dataset import DatasetSpec
from mtorl.log.splits import unit_order
from mtorl.simulator.simulator import Simulator, SimulatorConfig

DAYS = 21
ACTIVE = 0.3  # at least this share of the simulated users comes on a day
TOUCHPOINTS = 2.0  # of a user in a short period of a real log

Period = tuple[str, pd.DataFrame]


class Source(Protocol):
    """Where references and periods come from."""

    spec: DatasetSpec
    most_users: int
    """That a period can have."""
    splits: int

    def training(self, split: int) -> pd.DataFrame:
        """Log of the training users of a split, in the order of users and times."""

    def periods(self, split: int, users: int, number: int) -> Iterator[Period]:
        """Name of its kind and rows of each period; `number` of each kind, with so many users that no training saw."""


@dataclass(frozen=True)
class Simulated:
    """Another market for each split and period, so that no two have a user in common."""

    training_users: int
    spec: DatasetSpec
    most_users: int = 10**9
    splits: int = 20

    def training(self, split: int) -> pd.DataFrame:
        """A log of three weeks."""
        return Simulator(SimulatorConfig(users=self.training_users, seed=split, days=DAYS)).log()

    def periods(self, split: int, users: int, number: int) -> Iterator[Period]:
        """A day of such a log, a day after it on which everyone comes once, and a log as a whole."""
        for i in range(number):
            seed = (split + 1) * 1_000_000 + users * 100 + i
            yield "one day of the log", self._one_day(users, seed)
            yield "one decision a user, after the log", self._after(users, seed)
            yield "whole journeys", Simulator(SimulatorConfig(users=users, seed=seed, days=DAYS)).log()

    def _one_day(self, users: int, seed: int) -> pd.DataFrame:
        log = Simulator(SimulatorConfig(users=int(users / ACTIVE) + 100, seed=seed, days=DAYS)).log()
        day = (log["timestamp"] - log["timestamp"].min().normalize()).dt.days
        rows = log[day == np.random.default_rng(seed).integers(DAYS)]
        kept = rows["user_id"].unique()[:users]
        assert len(kept) == users
        return rows[rows["user_id"].isin(kept)]

    def _after(self, users: int, seed: int) -> pd.DataFrame:
        simulator = Simulator(SimulatorConfig(users=users, seed=seed, days=1, mean_touchpoints=2))
        online = simulator.online(simulator.user_ids, rounds=1, seed=seed)
        rows = [{"user_id": user, **online.opportunity(user, 0)["context"]} for user in simulator.user_ids]
        static = simulator.log().groupby("user_id")[[column.name for column in self.spec.static]].first()
        return pd.DataFrame(rows).join(static, on="user_id")


@dataclass(frozen=True)
class Recorded:
    """A real log: each split puts half of its users at random into training, and draws periods from the other half.

    Two periods of a split may share users, so they tell less than as many periods of different ones.
    """

    log: pd.DataFrame  # canonical
    spec: DatasetSpec
    splits: int = 10

    @property
    def most_users(self) -> int:
        """Less than the other half: the same period over and over again would say nothing."""
        return self.log["user_id"].nunique() // 3

    def training(self, split: int) -> pd.DataFrame:
        """The log of half of the users."""
        chosen, _ = self._halves(split)
        return self.log[self.log["user_id"].isin(chosen)].reset_index(drop=True)

    def periods(self, split: int, users: int, number: int) -> Iterator[Period]:
        """All touchpoints of some users, and about two neighbouring ones of each."""
        _, others = self._halves(split)
        by_user: Mapping[str, pd.DataFrame] = self._rows_of(others)
        for i in range(number):
            rng = np.random.default_rng([split, users, i])
            drawn = rng.choice(others, users, replace=False)
            rows = pd.concat([by_user[user] for user in drawn], ignore_index=True)
            yield "whole journeys", rows
            share = min(1.0, TOUCHPOINTS * users / len(rows))
            salted = rows["user_id"] + f" {i}"
            yield "two neighbouring touchpoints a user", rows[stretches(salted, share)]

    def _halves(self, split: int) -> tuple[list[str], list[str]]:
        users = unit_order(self.log["user_id"].unique(), split)
        return users[: len(users) // 2], users[len(users) // 2 :]

    def _rows_of(self, users: list[str]) -> dict[str, pd.DataFrame]:
        kept = self.log[self.log["user_id"].isin(users)]
        return {str(user): rows for user, rows in kept.groupby("user_id", sort=False)}
