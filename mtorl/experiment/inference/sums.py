"""Computes sums over the users of an experiment, which are the only data that a comparison of arms needs.

    sums = Sums.of_users(values, present)           # from the figures of each user in each arm and stage

    users = UserSums(("decisions", "outcome:click"), stages=2, arms=2, numerators={"click": click})
    users.add(user, cell, figures)                  # one row per user, stage and arm; all rows of a user in one call
    sums = users.of(arms=(1, 0), stages=[0, 1], maps=maps, positive="click")

A user has several figures in each arm and stage: the numerator and denominator of the metric and, if the lift is
adjusted (`adjustment.py`), a 1 and the covariates. `UserSums` contains the sums for all metrics at once, for more users
than fit in memory. A metric's figures are weighted sums of a user's columns, so the sums of products of the figures
follow from the sums for the columns. Memory depends on the numbers of stages, arms and columns, not of users.

Shapes: U = users, A = 2 arms, challenger first; S = stages; F = figures of a metric; R = rows, C = cells (stages x
arms), B = columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Indices of the figures in the last axis; covariates come last.
NUMERATOR, DENOMINATOR, ONE, COVARIATES = range(4)


@dataclass(frozen=True)
class Sums:
    """Sums over users, from which the lift of one metric and its variance are computed."""

    users: Floats  # number of users, (..., A, S)
    positive: Floats  # number of users with a numerator above 0, (..., A, S)
    totals: Floats  # sum of each figure, (..., A, S, F)
    products: Floats  # sums of products of two figures, (..., A S F, A S F)

    @classmethod
    def of_users(cls, values: Floats, present: npt.NDArray[np.bool_]) -> Sums:
        """Add up the figures of all users.

        Args:
            values: Figures of each user, (..., U, A, S, F).
            present: Whether the user was in this arm and stage, (..., U, A, S).
        """
        flat = values.reshape(*values.shape[:-3], math.prod(values.shape[-3:]))
        return cls(
            users=present.sum(-3, dtype=np.float64),
            positive=(values[..., NUMERATOR] > 0).sum(-3, dtype=np.float64),
            totals=values.sum(-4),
            products=np.swapaxes(flat, -1, -2) @ flat,
        )

    def within(self) -> Floats:
        """Return the products of two figures in the same arm and stage, summed over users, (..., A, S, F, F)."""
        *leading, arms, stages, figures = self.totals.shape
        cells = self.products.reshape(*leading, arms * stages, figures, arms * stages, figures)
        found: Floats = np.einsum("...cfcg->...cfg", cells)
        return found.reshape(*leading, arms, stages, figures, figures)

    def with_both_arms(self) -> Sums:
        """Return a copy without the stages in which an arm has no users or a zero denominator."""
        there = (self.users > 0) & (self.totals[..., DENOMINATOR] > 0)
        both: npt.NDArray[np.bool_] = np.all(there, axis=-2, keepdims=True)
        users, positive = np.where(both, self.users, 0.0), np.where(both, self.positive, 0.0)
        return Sums(users, positive, np.where(both[..., None], self.totals, 0.0), self.products)


class UserSums:
    """Sums over users for all metrics at once. The users do not have to fit in memory.

    Args:
        numerators: Numerator of each metric, as a weighted sum of columns.
        same: Maps other names to columns with the same values.
    """

    def __init__(
        self,
        columns: Sequence[str],
        stages: int,
        arms: int,
        numerators: Mapping[str, Iterable[tuple[str, float]]],
        same: Mapping[str, str] | None = None,
    ) -> None:
        self.columns = tuple(columns)
        self._same = same or {}
        self._arms = arms
        cells, size = stages * arms, len(self.columns)
        self.users_C = np.zeros(cells)
        self.totals_CB = np.zeros((cells, size))
        self.products_CBCB = np.zeros((cells, size, cells, size))
        self.positive_C = {name: np.zeros(cells) for name in numerators}
        self._numerators_NB = np.zeros((len(numerators), size))
        for number, terms in enumerate(numerators.values()):
            for name, weight in terms:
                self._numerators_NB[number, self.index_of(name)] += weight

    def index_of(self, column: str) -> int:
        """Return the index of a column."""
        return self.columns.index(self._same.get(column, column))

    def add(self, user_R: npt.NDArray[np.uint64], cell_R: npt.NDArray[np.intp], figures_BR: Floats) -> None:
        """Add the rows of some users. All rows of a user must be in the same call.

        Args:
            user_R: User of each row; the rows are sorted by user.
            cell_R: Cell of each row, which is stage * arms + arm. A user has at most one row per cell.
        """
        cells = len(self.users_C)
        users_C = np.bincount(cell_R, minlength=cells)
        self.users_C += users_C
        ends_C = users_C.cumsum()
        sorted_BR = np.take(figures_BR, np.argsort(cell_R.astype(np.min_scalar_type(cells)), kind="stable"), axis=1)
        for cell in np.flatnonzero(users_C):
            of_cell = sorted_BR[:, ends_C[cell] - users_C[cell] : ends_C[cell]]
            self.totals_CB[cell] += of_cell.sum(1)
            self.products_CBCB[cell, :, cell] += of_cell @ of_cell.T
            for users, positive in zip(self.positive_C.values(), self._numerators_NB @ of_cell > 0, strict=True):
                users[cell] += np.count_nonzero(positive)
        # Multiply each pair of rows of the same user. These rows are adjacent, so increase the distance step by step.
        lag = 1
        while len(one := np.flatnonzero(user_R[lag:] == user_R[:-lag])):
            kind = cell_R[one] * cells + cell_R[one + lag]
            for number in np.unique(kind):
                pairs = one[kind == number]
                product = figures_BR[:, pairs] @ figures_BR[:, pairs + lag].T
                first, second = divmod(int(number), cells)
                self.products_CBCB[first, :, second] += product
                self.products_CBCB[second, :, first] += product.T
            lag += 1

    def cells(self, arm: int) -> npt.NDArray[np.intp]:
        """Return the indices of an arm's cells, one for each stage, (S,)."""
        return np.arange(arm, len(self.users_C), self._arms)

    def of(self, arms: tuple[int, int], stages: Sequence[int], maps: Floats, positive: str) -> Sums:
        """Return the sums of one metric for two arms.

        Args:
            maps: Weights that turn columns into the metric's figures, (A, S, F, B).
            positive: Key of the metric's numerator in `numerators`.
        """
        place = np.array([[stage * self._arms + arm for stage in stages] for arm in arms], dtype=np.intp)  # (A, S)
        flat, count = place.reshape(-1), maps.shape[-2]
        by_cell = maps.reshape(len(flat), count, -1)
        between = self.products_CBCB[flat][:, :, flat]
        products = np.einsum("cfb,cbde,dge->cfdg", by_cell, between, by_cell, optimize=True)
        return Sums(
            users=self.users_C[place],
            positive=self.positive_C[positive][place],
            totals=np.einsum("asfb,asb->asf", maps, self.totals_CB[place]),
            products=products.reshape(len(flat) * count, -1),
        )
