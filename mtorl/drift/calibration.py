"""Drift thresholds that keep one false-alarm rate a period, for any size and any number of columns.

Without any drift, a distance grows with the inverse of the number of *distinct users* in the period: rows of one user
are alike, so 5,000 rows of 300 users look "drifted" at any fixed threshold (0.1 alarms in 50-93 % of healthy periods).
So the threshold is measured: users of the reference are held out, made into imitated periods with as many users as the
real one, and scored against the rest. From the scores of these healthy periods

    q_c          = 99 % quantile of column c
    k            = (1 - alpha) quantile, over periods, of the largest score_c / q_c       (the max-statistic)
    threshold_c  = max(floor of the test, k * q_c)

and for a test that is not joint, threshold_c = max(floor, (1 - alpha) quantile of column c).

No resampling shows a tail that the reference has not seen: a column as heavy-tailed as a log-normal of sigma 1.5 alarms
somewhat more often than alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtorl.arrays import Bools, Floats
from mtorl.drift.drift_tests import DriftTest, asked_of

IMITATIONS = 400
_AT_ONCE = 50  # so many are scored together: a few tens of MB of weights
ALPHA = 0.01  # probability that a healthy period raises any alarm
Thresholds = dict[tuple[str, str], float]
"""By column and method of the test."""


class Size(NamedTuple):
    """Of a period, or of a sample of its users."""

    users: int
    rows: int


def measure(
    reference: pd.DataFrame,
    kinds: Mapping[str, str],
    size: Size,
    *,
    alpha: float,
    seed: int,
    imitations: int = IMITATIONS,
) -> Thresholds:
    """Limits that a healthy period of this size reaches with probability alpha in any column, without floors.

    Args:
        reference: The reference sample with its user_id, whole users, rows of a user in the order of time.
        kinds: "numeric" or "categorical" of each column to check.
        size: Of the period; fewer rows a user than in the reference make context columns noisier.
        alpha: False-alarm rate of a period over all its columns.
        imitations: Number of imitated periods.
    """
    rng = np.random.default_rng(seed)
    asked: list[tuple[str, DriftTest]] = [(name, test) for name, kind in kinds.items() for test in asked_of(kind)]
    scorers = [test.scorer(reference[name]) for name, test in asked]
    journeys = _Journeys(reference["user_id"])
    scores = np.zeros((imitations, len(asked)))
    # At most half of the users can be held out, and holding out makes the reference smaller than it really is. Both
    # add noise; under no drift these scores shrink with the root of the noise, so it is scaled back to the real sizes.
    held_out = min(size.users, journeys.users // 2)
    noise = 1 / held_out + 1 / (journeys.users - held_out)
    to_real_size = np.sqrt((1 / size.users + 1 / journeys.users) / noise)
    for some in np.split(scores, range(_AT_ONCE, imitations, _AT_ONCE)):
        splits = [journeys.split(rng, held_out, size.rows / size.users) for _ in some]
        remaining, imitated = (np.stack(weights, axis=1) for weights in zip(*splits, strict=True))
        some[:] = to_real_size * np.stack([score(remaining, imitated) for score in scorers], axis=1)
    joint = np.array([test.joint for _, test in asked])
    q = np.quantile(scores, 0.99, axis=0)
    ratios = np.divide(scores, q, out=np.zeros_like(scores), where=(q > 0.0) & joint)
    k = float(np.quantile(ratios.max(axis=1), 1.0 - alpha, method="higher"))
    limits = np.where(joint, k * q, np.quantile(scores, 1.0 - alpha, axis=0))
    return {(name, test.method): float(limit) for (name, test), limit in zip(asked, limits, strict=True)}


class _Journeys:
    """Rows by user, ready to be split into an imitated period and the rest."""

    def __init__(self, user: pd.Series) -> None:
        self._code, labels = pd.factorize(user)
        self.users = len(labels)
        self._length = np.bincount(self._code, minlength=self.users)
        self._step = pd.Series(self._code).groupby(self._code).cumcount().to_numpy()

    def split(self, rng: np.random.Generator, held_out: int, rows_per_user: float) -> tuple[Floats, Floats]:
        """Row weights of the remaining reference, and of a period of `held_out` random users."""
        chosen = np.zeros(self.users, dtype=bool)
        chosen[rng.permutation(self.users)[:held_out]] = True
        in_period = chosen[self._code]
        share = rows_per_user * self.users / len(self._code)
        kept = in_period & self._stretch(rng, share) if share < 1.0 else in_period
        return (~in_period).astype(np.float64), kept.astype(np.float64)

    def _stretch(self, rng: np.random.Generator, share: float) -> Bools:
        """A stretch of neighbouring touchpoints from each journey, as in a short period."""
        keep = np.floor(self._length * share + rng.random(self.users))
        start = rng.integers(0, self._length)
        return np.asarray((self._step - start[self._code]) % self._length[self._code] < keep[self._code])
