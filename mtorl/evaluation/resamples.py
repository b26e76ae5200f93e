"""Computes confidence intervals by resampling users with replacement (bootstrap).

Whole users are resampled, because the rows of one user are not independent.

Shapes: B rows, U users, R resamples, S sums.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Floats

_LEVEL = 0.95


class UserResamples:
    """An iterable of bootstrap resamples of the users in a log.

    Each resample is an array (U,) that contains how often each user was drawn.
    """

    def __init__(self, users_B: ArrayLike, resamples: int, seed: int) -> None:
        users, self.code_B = np.unique(np.asarray(users_B), return_inverse=True)
        self.users = len(users)
        self._resamples = resamples
        self._seed = seed

    def __iter__(self) -> Iterator[Floats]:
        random = np.random.default_rng(self._seed)
        for _ in range(self._resamples):
            drawn = random.integers(self.users, size=self.users)
            yield np.bincount(drawn, minlength=self.users).astype(np.float64)

    def sums(self, columns: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Sum each column over all rows, for the log itself (S,) and for each resample of the users (R, S)."""
        sums_US = np.stack([np.bincount(self.code_B, column, self.users) for column in columns], axis=1)
        return sums_US.sum(axis=0), np.array([counts_U @ sums_US for counts_U in self])


def interval(values: ArrayLike) -> list[float] | None:
    """Return the 95 % interval of an estimate, given its value in each resample; None if all values are NaN."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return None
    return [float(edge) for edge in np.quantile(numbers, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])]
