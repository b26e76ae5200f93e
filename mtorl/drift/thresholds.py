"""Measures drift thresholds with a fixed false-alarm rate per period, for any size and any number of columns.

    grid = ThresholdGrid.measure(reference, {"hour": "numeric", "device": "categorical"})
    grid.at(Size(users=300, rows=450), {"hour": "numeric"})          # {("hour", "wasserstein"): 0.11, ...}

The rows of one user are similar, so 5,000 rows of only 300 users differ from the training data even without drift: a
fixed threshold of 0.1 raises alarms in 50-93 % of healthy periods. So thresholds are measured. Some users of the
reference are held out as an imitated period, with as many users as the real period, and compared with the rest. The
scores of such periods define

    q_c          = 99 % quantile of column c
    k            = (1 - alpha) quantile, over periods, of the largest score_c / q_c       (the max-statistic)
    threshold_c  = max(floor of the test, k * q_c)

and, for a test that is not joint, threshold_c = max(floor, (1 - alpha) quantile of column c). Held-out users can't show
extreme values that are not in the reference. So a column with such values (log-normal with sigma 1.5) raises false
alarms somewhat more often.

The score of a healthy period falls with its number of users n and its rows per user m, about as sqrt(a + b / n + c /
m). Thresholds are measured for a grid of sizes. Between them, the logarithm of a threshold is interpolated linearly in
log n and log m. The result is never too low, because the logarithm of such a root is convex. For larger periods than
the grid contains, the thresholds of its largest size are used, which may be too high. A period with fewer users than
the smallest size is not checked.

Shapes: U numbers of users, M numbers of rows per user.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mtorl.arrays import Bools, Floats
from mtorl.drift.drift_tests import DriftTest, asked_of
from mtorl.drift.reference import MAX_ROWS, MIN_USERS, typed
from mtorl.runtime import progress

IMITATIONS = 400
_BATCH = 50  # imitated periods per call, to limit memory
ALPHA = 0.01  # probability of a false alarm in any column of a period
Thresholds = dict[tuple[str, str], float]
"""Threshold of the score by column and name of the test."""


class Size(NamedTuple):
    """The number of users and rows in a period, or in a sample of the period's users."""

    users: int
    rows: int


def measure(
    reference: pd.DataFrame, kinds: Mapping[str, str], size: Size, *, alpha: float, seed: int, imitations: int
) -> Thresholds:
    """Return, for each column and test, the score that a period without drift rarely exceeds.

    Args:
        reference: All rows of each user in the sample, in time order, with the column user_id.
        kinds: "numeric" or "categorical" for each column to test.
        alpha: Probability of a false alarm in any column of a period.
    """
    rng = np.random.default_rng(seed)
    asked: list[tuple[str, DriftTest]] = [(name, test) for name, kind in kinds.items() for test in asked_of(kind)]
    scorers = [test.scorer(reference[name]) for name, test in asked]
    journeys = _Journeys(reference["user_id"])
    scores = np.zeros((imitations, len(asked)))
    # Imitated periods may have fewer users than real ones, which makes their scores larger. So scale the scores down.
    held_out = min(size.users, journeys.users // 2)
    noise = 1 / held_out + 1 / (journeys.users - held_out)
    to_real_size = np.sqrt((1 / size.users + 1 / journeys.users) / noise)
    for some in np.split(scores, range(_BATCH, imitations, _BATCH)):
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
    """The rows of the reference, grouped by user for splits into an imitated period and the rest."""

    def __init__(self, user: pd.Series) -> None:
        self._code, labels = pd.factorize(user)
        self.users = len(labels)
        self._length = np.bincount(self._code, minlength=self.users)
        self._step = pd.Series(self._code).groupby(self._code).cumcount().to_numpy()

    def split(self, rng: np.random.Generator, held_out: int, rows_per_user: float) -> tuple[Floats, Floats]:
        """Choose random users for an imitated period.

        Returns:
            Two arrays with a weight of 0 or 1 for each row. The first selects the rows of all other users, and the
            second the rows of the period.
        """
        chosen = np.zeros(self.users, dtype=bool)
        chosen[rng.permutation(self.users)[:held_out]] = True
        in_period = chosen[self._code]
        share = rows_per_user * self.users / len(self._code)
        kept = in_period & self._stretch(rng, share) if share < 1.0 else in_period
        return (~in_period).astype(np.float64), kept.astype(np.float64)

    def _stretch(self, rng: np.random.Generator, share: float) -> Bools:
        """Return a mask of consecutive touchpoints, a fraction `share` of each user's touchpoints."""
        keep = np.floor(self._length * share + rng.random(self.users))
        start = rng.integers(0, self._length)
        return np.asarray((self._step - start[self._code]) % self._length[self._code] < keep[self._code])


_SIZES = 6
_Weights = list[tuple[int, float]]
# number of threads; NumPy releases Python's lock, and each thread needs tens of MB
_AT_ONCE = 2


@dataclass(frozen=True)
class ThresholdGrid:
    """The limits of the scores of each column and test, for a grid of period sizes."""

    users_U: Floats  # numbers of users in a period, ascending
    rows_M: Floats  # mean numbers of rows per user, ascending
    limits_UM: Mapping[tuple[str, str], Floats]  # (column, method) -> limits before the floor of the test is applied

    @classmethod
    def measure(cls, reference: pd.DataFrame, kinds: Mapping[str, str], imitations: int = IMITATIONS) -> ThresholdGrid:
        """Measure the limits for each size of the grid."""
        columns = typed(reference, kinds).assign(user_id=reference["user_id"])
        users_U = np.geomspace(MIN_USERS, MAX_ROWS, _SIZES).round()
        rows_M = np.unique([1.0, len(reference) / reference["user_id"].nunique()])
        sizes = [Size(int(n), round(n * m)) for n in users_U for m in rows_M]
        of_size = partial(measure, columns, kinds, alpha=ALPHA, seed=0, imitations=imitations)
        measured: list[Thresholds] = []
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for found in threads.map(of_size, sizes):
                progress.report(len(measured), len(sizes), "thresholds of drift")
                measured.append(found)
        shape = len(users_U), len(rows_M)
        limits = {key: np.array([at[key] for at in measured]).reshape(shape) for key in measured[0]}
        return cls(users_U, rows_M, limits)

    def at(self, size: Size, kinds: Mapping[str, str]) -> Thresholds:
        """Return the thresholds for a period of any size, interpolated between the sizes of the grid.

        Args:
            kinds: "numeric" or "categorical" for each column to test. Columns without a measured limit are left out.
        """
        of_users = _weights(self.users_U, size.users)
        of_rows = _weights(self.rows_M, size.rows / size.users)
        return {
            (name, test.method): max(test.floor, _interpolated(self.limits_UM[name, test.method], of_users, of_rows))
            for name, kind in kinds.items()
            for test in asked_of(kind)
            if (name, test.method) in self.limits_UM
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        limits: dict[str, dict[str, Any]] = {}
        for (name, method), limits_UM in self.limits_UM.items():
            limits.setdefault(name, {})[method] = limits_UM.tolist()
        return {"users": self.users_U.tolist(), "rows": self.rows_M.tolist(), "limits": limits}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ThresholdGrid:
        """Create a grid from the result of `to_dict`."""
        limits = {
            (name, method): np.array(limits_UM, dtype=np.float64)
            for name, of_methods in content["limits"].items()
            for method, limits_UM in of_methods.items()
        }
        return cls(np.array(content["users"]), np.array(content["rows"]), limits)


def _interpolated(limits_UM: Floats, of_users: _Weights, of_rows: _Weights) -> float:
    # A limit can be 0 or negative, for example for a constant column. It then counts as 0, whose logarithm is -inf.
    with np.errstate(divide="ignore"):
        logs_UM = np.log(np.maximum(limits_UM, 0.0))
    return float(np.exp(_mean(_mean(logs_UM.T, of_users), of_rows)))


def _weights(grid: Floats, value: float) -> _Weights:
    """Return the grid points next to `value`, with their weights for an interpolation on a logarithmic scale."""
    place = float(np.interp(np.log(value), np.log(grid), np.arange(len(grid))))
    low = int(place)
    return [(at, weight) for at, weight in ((low, low + 1 - place), (low + 1, place - low)) if weight > 0.0]


def _mean(values: Floats, weights: _Weights) -> Floats:
    """Return the weighted mean over the last axis, without the values of weight 0, which may be infinite."""
    return np.asarray(sum(weight * values[..., at] for at, weight in weights))
