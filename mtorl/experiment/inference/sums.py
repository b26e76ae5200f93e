"""Sums over the users of an experiment: all that a comparison needs of them.

    sums = Sums.of_users(values, present)       # figures of each user in each arm and stage

Each user has some figures in each arm and stage: numerator and denominator of the metric and, where the lift is
adjusted (`adjustment.py`), a 1 and its covariates. Of users who do not fit in memory: `user_sums.py`.

Shapes: U = users, A = 2 arms, challenger first; S = stages; F = figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUMERATOR, DENOMINATOR, ONE, COVARIATES = range(4)  # places of the figures; the covariates are the rest


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

    def within(self) -> Floats:
        """Sums of products of figures of the same arm and stage, (..., A, S, F, F)."""
        *leading, arms, stages, figures = self.totals.shape
        cells = self.products.reshape(*leading, arms * stages, figures, arms * stages, figures)
        found: Floats = np.einsum("...cfcg->...cfg", cells)
        return found.reshape(*leading, arms, stages, figures, figures)

    def with_both_arms(self) -> Sums:
        """Sums without stages in which an arm has no users or no denominator."""
        there = (self.users > 0) & (self.totals[..., DENOMINATOR] > 0)
        both: npt.NDArray[np.bool_] = np.all(there, axis=-2, keepdims=True)
        users, positive = np.where(both, self.users, 0.0), np.where(both, self.positive, 0.0)
        return Sums(users, positive, np.where(both[..., None], self.totals, 0.0), self.products)
