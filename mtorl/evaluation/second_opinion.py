"""A second opinion of what exposures bring, by models of users from whom the challenger did not learn.

    outcomes = second_opinion(table, moments, users_B, encoder, lightgbm.fit_outcomes, seed=0)

A policy chooses what looked best among its training users, in part by chance. Another model of the same users has seen
the same chance and agrees, so its agreement says nothing. Test users have not shaped the choice. They also tell what
came of it, so no model of a user may speak of that same user: test users are cut into folds, and of the users of each
speaks a model of those of the others (cross-fitting: Chernozhukov et al. 2018, arXiv:1608.00060). How sure it is, the
models tell, each of which lacks some of the users (the jackknife).

Shapes: L rows to learn from, B rows that are asked about, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np
import pandas as pd

from mtorl.arrays import Floats, Ints
from mtorl.evaluation.expected_outcomes import ExpectedOutcomes
from mtorl.log.hashing import fractions_of
from mtorl.log.splits import folds_of
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch

FOLDS = 5
FEWEST_USERS = 20
"""To learn from; with fewer there is no second opinion."""
MOST_TOUCHPOINTS = 200_000
"""About so many are learned from, those of whole users: more take longer and say little more."""


Users = pd.Series | Iterable[str]
"""The user of each row."""


class OutcomeModel(Protocol):
    """A fitted model of what an exposure brings and costs."""

    def predict(self, batch: WindowBatch) -> tuple[Floats, Floats]:
        """Reward, as the encoder scales it, and cost of each channel at the last step of each window."""


Fit = Callable[[WindowBatch, WindowBatch, Encoder, int], OutcomeModel]
"""Windows to learn from and others to stop on, both with targets; the encoder; a seed."""


def second_opinion(
    table: WindowTable, moments: WindowBatch, users_B: Users, encoder: Encoder, fit: Fit, seed: int
) -> ExpectedOutcomes | None:
    """What is to be expected at some moments of test users, by models of other test users' touchpoints.

    Args:
        table: Touchpoints; test users are learned from, and validation users tell when to stop.
        moments: The windows that are asked about.
        users_B: Their users.
        encoder: The challenger's, which scales rewards.
        fit: How a model is fitted, such as `mtorl.baselines.lightgbm.fit_outcomes`.
        seed: Of the fitting.

    Returns:
        None: there are too few test users to learn from.
    """
    part = table.rows["split"].to_numpy(dtype=str)
    for name in ("test", "val"):
        there = part == name
        users = table.rows["user_id"][there]
        if len(users) > MOST_TOUCHPOINTS:
            chosen = fractions_of(users, "second opinion") < MOST_TOUCHPOINTS / len(users)
            part[there] = np.where(chosen, name, "")
    chosen_table = replace(table, rows=table.rows.assign(split=part))
    known, stopping = (chosen_table.windows(name, targets=True) for name in ("test", "val"))

    def expected(learned: Ints) -> ExpectedOutcomes:
        reward_BC, cost_BC = fit(known.take(learned), stopping, encoder, seed).predict(moments)
        return ExpectedOutcomes(np.maximum(encoder.unreward(reward_BC, cost_BC), 0.0), cost_BC)

    return cross_fitted(table.rows["user_id"][part == "test"], users_B, expected)


def cross_fitted(
    known_users_L: Users, users_B: Users, expected: Callable[[Ints], ExpectedOutcomes]
) -> ExpectedOutcomes | None:
    """Ask about each user by what is known of others.

    Args:
        known_users_L: Users of the rows that can be learned from.
        users_B: Users of the rows that are asked about.
        expected: Learns from some rows of the former, by their places, and answers about all of the latter.

    Returns:
        None: there are too few users to learn from.
    """
    if pd.Series(known_users_L, dtype=object).nunique() < FEWEST_USERS:
        return None
    fold_L, fold_B = folds_of(known_users_L, FOLDS), folds_of(users_B, FOLDS)
    models = [expected(np.flatnonzero(fold_L != fold)) for fold in range(FOLDS)]
    rows = np.arange(len(fold_B))
    gain_BC, cost_BC = (
        np.stack([getattr(model, name) for model in models])[fold_B, rows] for name in ("gain_BC", "cost_BC")
    )
    return ExpectedOutcomes(gain_BC, cost_BC, tuple(model.gain_BC for model in models))
