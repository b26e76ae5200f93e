"""Thresholds for periods of every size, measured once and kept with the reference that they belong to.

    grid = ThresholdGrid.measure(reference, {"hour": "numeric", "device": "categorical"})
    grid.at(Size(users=300, rows=450), {"hour": "numeric"})          # {("hour", "wasserstein"): 0.11, ...}

The score of a healthy period falls with its users n and its rows a user m, about as sqrt(a + b / n + c / m). The grid
has few sizes. Between two of them the logarithm of a threshold is taken as linear in the logarithms of n and m, which
is not too low for such a root: it is convex there, so the chord lies above it. Beyond the ends of the grid its last
thresholds hold, which are too high for larger periods if anything; a period with fewer users than its first is not
checked.

Shapes: U numbers of users, M numbers of rows a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mtorl.arrays import Floats
from mtorl.drift import calibration
from mtorl.drift.calibration import ALPHA, Size, Thresholds
from mtorl.drift.drift_tests import asked_of
from mtorl.drift.reference import MAX_ROWS, MIN_USERS, typed

_SIZES = 6
_Weights = list[tuple[int, float]]
_AT_ONCE = 2  # sizes: NumPy works outside of Python's lock, and each of them takes tens of MB


@dataclass(frozen=True)
class ThresholdGrid:
    """Measured limits of each column and test."""

    users_U: Floats  # of a period, ascending
    rows_M: Floats  # mean rows of a user, ascending
    limits_UM: Mapping[tuple[str, str], Floats]  # by column and method, without the floors of the tests

    @classmethod
    def measure(
        cls, reference: pd.DataFrame, kinds: Mapping[str, str], imitations: int = calibration.IMITATIONS
    ) -> ThresholdGrid:
        """Measure the limits of each size, as `mtorl.drift.calibration.measure` does."""
        columns = typed(reference, kinds).assign(user_id=reference["user_id"])
        users_U = np.geomspace(MIN_USERS, MAX_ROWS, _SIZES).round()
        rows_M = np.unique([1.0, len(reference) / reference["user_id"].nunique()])
        sizes = [Size(int(n), round(n * m)) for n in users_U for m in rows_M]
        of_size = partial(calibration.measure, columns, kinds, alpha=ALPHA, seed=0, imitations=imitations)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            measured = list(threads.map(of_size, sizes))
        shape = len(users_U), len(rows_M)
        limits = {key: np.array([at[key] for at in measured]).reshape(shape) for key in measured[0]}
        return cls(users_U, rows_M, limits)

    def at(self, size: Size, kinds: Mapping[str, str]) -> Thresholds:
        """Thresholds of a period, of the tests that the grid was measured for.

        With fewer columns than the grid has, the false-alarm rate is below alpha: its limits are those for all of them.
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
        """JSON-ready form."""
        limits: dict[str, dict[str, Any]] = {}
        for (name, method), limits_UM in self.limits_UM.items():
            limits.setdefault(name, {})[method] = limits_UM.tolist()
        return {"users": self.users_U.tolist(), "rows": self.rows_M.tolist(), "limits": limits}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ThresholdGrid:
        """What `to_dict` gave."""
        limits = {
            (name, method): np.array(limits_UM, dtype=np.float64)
            for name, of_methods in content["limits"].items()
            for method, limits_UM in of_methods.items()
        }
        return cls(np.array(content["users"]), np.array(content["rows"]), limits)


def _interpolated(limits_UM: Floats, of_users: _Weights, of_rows: _Weights) -> float:
    # The limit of a column that never varies is 0; that of values that few users miss may be below, as no rise is.
    with np.errstate(divide="ignore"):
        logs_UM = np.log(np.maximum(limits_UM, 0.0))
    return float(np.exp(_mean(_mean(logs_UM.T, of_users), of_rows)))


def _weights(grid: Floats, value: float) -> _Weights:
    """Neighbouring points of the grid and their weights, linear in the logarithm; the grid's end beyond it."""
    place = float(np.interp(np.log(value), np.log(grid), np.arange(len(grid))))
    low = int(place)
    return [(at, weight) for at, weight in ((low, low + 1 - place), (low + 1, place - low)) if weight > 0.0]


def _mean(values: Floats, weights: _Weights) -> Floats:
    """Weighted mean over the last axis; an infinite value that has no weight does no harm."""
    return np.asarray(sum(weight * values[..., at] for at, weight in weights))
