"""Sums over the users of an experiment: all that a comparison needs of them.

    sums = Sums.of_rows(user, arm, stage, figures)      # one row for each user, arm and stage

Each user has some figures in each arm and stage: numerator and denominator of the metric and, where the lift is
adjusted (`adjustment.py`), a 1 and its covariates.

Shapes: U = users, R = rows, A = 2 arms, challenger first; S = stages; F = figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUMERATOR, DENOMINATOR, ONE, COVARIATES = range(4)  # places of the figures; the covariates are the rest
_ROWS_AT_ONCE = 500_000  # whose figures are copied


@dataclass(frozen=True)
class Sums:
    """Sums of the users' figures, and of the products of each two of them."""

    users: Floats  # of each arm and stage, (..., A, S)
    positive: Floats  # those whose numerator is above 0, (..., A, S)
    totals: Floats  # (..., A, S, F)
    products: Floats  # (..., A S F, A S F)

    @classmethod
    def of_users(cls, values: Floats, present: npt.NDArray[np.bool_]) -> Sums:
        """Add up figures (..., U, A, S, F) of users who were `present` in an arm and stage (..., U, A, S)."""
        flat = values.reshape(*values.shape[:-3], math.prod(values.shape[-3:]))
        return cls(
            users=present.sum(-3, dtype=np.float64),
            positive=(values[..., NUMERATOR] > 0).sum(-3, dtype=np.float64),
            totals=values.sum(-4),
            products=np.swapaxes(flat, -1, -2) @ flat,
        )

    @classmethod
    def of_rows(
        cls,
        user: npt.NDArray[np.integer[Any]],
        arm: npt.NDArray[np.integer[Any]],
        stage: npt.NDArray[np.integer[Any]],
        figures: Floats,
        looks: npt.NDArray[np.integer[Any]] | None = None,
    ) -> Sums:
        """Add up a table with one row for each user, arm and stage.

        Args:
            arm: 0 challenger, 1 incumbent, (R,).
            stage: Number of the stage, from 0, (R,).
            looks: Numbers of rows after which people look, ascending, (L,); the sums have an axis of them. By default,
                all rows are added up, and there is no such axis.
        """
        ends = np.array([len(user)]) if looks is None else looks
        user, arm, stage, figures = user[: ends[-1]], arm[: ends[-1]], stage[: ends[-1]], figures[: ends[-1]]
        stages, size = int(stage.max(initial=0)) + 1, figures.shape[-1]
        cells = 2 * stages
        seen_at = np.searchsorted(ends, np.arange(len(user)), side="right")
        cell = arm.astype(np.intp) * stages + stage
        place = seen_at * cells + cell

        def added(weights: npt.NDArray[Any] | None) -> Floats:
            counts = np.bincount(place, weights, len(ends) * cells).astype(np.float64)
            return counts.reshape(len(ends), 2, stages).cumsum(0)

        products = np.zeros((len(ends), cells, size, cells, size))
        # Two rows of one user, when the later one is seen: neighbours once the rows are sorted, or the next but one ...
        order, lag = np.argsort(user, kind="stable"), 0
        while len(pairs := np.flatnonzero(user[order[: len(order) - lag]] == user[order[lag:]])):
            one, other = order[pairs], order[pairs + lag]
            kind = (seen_at[other] * cells + cell[one]) * cells + cell[other]
            for number, rows in _groups(kind, len(ends) * cells**2):
                look, of_one, of_other = np.unravel_index(number, (len(ends), cells, cells))
                for part in np.array_split(rows, len(rows) // _ROWS_AT_ONCE + 1):
                    sums = figures[one[part]].T @ figures[other[part]]
                    products[look, of_one, :, of_other, :] += sums
                    if lag:
                        products[look, of_other, :, of_one, :] += sums.T
            lag += 1
        found = cls(
            users=added(None),
            positive=added((figures[:, NUMERATOR] > 0).astype(np.float64)),
            totals=np.stack([added(figures[:, i]) for i in range(size)], -1),
            products=products.cumsum(0).reshape(len(ends), cells * size, cells * size),
        )
        if looks is None:
            return found.at(0)
        return found

    def within(self) -> Floats:
        """Sums of products of figures of the same arm and stage, (..., A, S, F, F)."""
        *leading, arms, stages, figures = self.totals.shape
        cells = self.products.reshape(*leading, arms * stages, figures, arms * stages, figures)
        found: Floats = np.einsum("...cfcg->...cfg", cells)
        return found.reshape(*leading, arms, stages, figures, figures)

    def at(self, look: int) -> Sums:
        """Sums of one look, or of any other place on the first axis."""
        return Sums(*(getattr(self, field.name)[look] for field in fields(self)))

    def with_both_arms(self) -> Sums:
        """Sums without stages in which an arm has no users or no denominator."""
        there = (self.users > 0) & (self.totals[..., DENOMINATOR] > 0)
        both: npt.NDArray[np.bool_] = np.all(there, axis=-2, keepdims=True)
        users, positive = np.where(both, self.users, 0.0), np.where(both, self.positive, 0.0)
        return Sums(users, positive, np.where(both[..., None], self.totals, 0.0), self.products)


def _groups(kind: npt.NDArray[np.intp], kinds: int) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each kind that there is, from 0, and its rows; a sort of small numbers takes little."""
    order = np.argsort(kind.astype(np.min_scalar_type(kinds)), kind="stable")
    present, starts = np.unique(kind[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts[1:]), strict=True)
