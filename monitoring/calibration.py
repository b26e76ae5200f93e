"""Drift thresholds that keep one false-alarm rate a window, whatever its size and however many columns it has.

What makes a distance grow without any drift is the number of *distinct users* in the window: rows of one user are
alike, so 5,000 rows of 300 users look "drifted" at any fixed threshold (0.1 alarms in 50-93 % of healthy windows).
So the threshold is measured: users of the reference are held out, made into windows with as many users as the real
one, and scored against the rest. From those null scores

    q_c          = 99 % quantile of column c
    k            = (1 - alpha) quantile, over windows, of the largest score_c / q_c       (the max-statistic)
    threshold_c  = max(floor of the method, k * q_c)

Measured (600 reference users, 9-10 columns, windows of 150 and 600 users, floors off): 1.5-1.9 % of healthy windows
alarm at alpha = 1 %, 2.7-3.5 % when a column is as heavy-tailed as a log-normal of sigma 1.5, because no resampling
shows a tail that the reference has not seen. The floors take some of it back.

A window is a vector of row weights, so nothing is copied and a score is one pass over a column that was sorted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

Weights = npt.NDArray[np.float64]

NULL_WINDOWS = 400
METHODS = {"numeric": "wasserstein", "categorical": "jensenshannon"}  # Evidently's registered names
# Below these a shift is too small to matter to a decision, however sure one is of it.
FLOORS = {"wasserstein": 0.05, "jensenshannon": 0.03}
MISSING_FLOOR = 0.05


class NumericScore:
    """Evidently's "wasserstein": first Wasserstein distance over the reference's standard deviation."""

    def __init__(self, values: pd.Series) -> None:
        x = values.to_numpy(dtype=np.float64)
        order = np.argsort(x, kind="stable")
        self._rows = order[: np.count_nonzero(~np.isnan(x))]  # NaN sorts last
        self._x = x[self._rows]
        self._gaps = np.diff(self._x)

    def __call__(self, reference: Weights, window: Weights) -> float:
        """Score of the window against the reference, each given by the weight of every row."""
        r, w = reference[self._rows], window[self._rows]
        r_sum, w_sum = r.sum(), w.sum()
        if r_sum == 0.0 or w_sum == 0.0:
            return 0.0
        mean = r @ self._x / r_sum
        std = np.sqrt(r @ (self._x - mean) ** 2 / r_sum)
        cdf_gap = np.abs(np.cumsum(w / w_sum - r / r_sum)[:-1])
        return float(cdf_gap @ self._gaps / max(std, 0.001))


class CategoricalScore:
    """Evidently's "jensenshannon": Jensen-Shannon distance (natural logarithm) of the category shares."""

    def __init__(self, values: pd.Series) -> None:
        codes, labels = pd.factorize(values)
        self._rows = np.flatnonzero(codes >= 0)
        self._codes = codes[self._rows]
        self._size = len(labels)

    def __call__(self, reference: Weights, window: Weights) -> float:
        """Score of the window against the reference, each given by the weight of every row."""
        p = np.bincount(self._codes, reference[self._rows], self._size)
        q = np.bincount(self._codes, window[self._rows], self._size)
        if p.sum() == 0.0 or q.sum() == 0.0:
            return 0.0
        p, q = p / p.sum(), q / q.sum()
        m = (p + q) / 2
        divergence = _relative_entropy(p, m) + _relative_entropy(q, m)
        return float(np.sqrt(max(divergence, 0.0) / 2))


def _relative_entropy(p: Weights, m: Weights) -> float:
    some = p > 0.0
    return float(p[some] @ np.log(p[some] / m[some]))


@dataclass(frozen=True)
class Thresholds:
    """Threshold of the drift score and of the rise in the missing share, by column."""

    score: dict[str, float]
    missing: dict[str, float]


def calibrate(
    reference: pd.DataFrame,
    kinds: Mapping[str, str],
    user: str,
    *,
    users: int,
    rows: int,
    alpha: float,
    seed: int,
    windows: int = NULL_WINDOWS,
) -> Thresholds:
    """Thresholds at which a healthy window of this size raises any alarm with probability alpha.

    Args:
        reference: the reference sample, whole users, rows of a user in time order.
        kinds: "numeric" or "categorical" of each column to check.
        user: name of the user column.
        users: distinct users in the window that is about to be checked.
        rows: rows in that window; fewer rows a user than in the reference are imitated, they make context noisier.
        alpha: false-alarm rate of a window over all its columns.
        seed: seed of the resampling.
        windows: number of null windows.
    """
    rng = np.random.default_rng(seed)
    names = list(kinds)
    scorers = [NumericScore(reference[c]) if kinds[c] == "numeric" else CategoricalScore(reference[c]) for c in names]
    absent = reference[names].isna().to_numpy(dtype=np.float64)
    journeys = _Journeys(reference[user])
    scores = np.zeros((windows, len(names)))
    missing = np.zeros((windows, len(names)))
    # At most half of the users can be held out, and holding out makes the reference smaller than it really is. Both
    # add noise; under no drift these scores shrink with the root of the noise, so it is scaled back to the real sizes.
    held_out = min(users, journeys.users // 2)
    noise = 1 / held_out + 1 / (journeys.users - held_out)
    to_real_size = np.sqrt((1 / users + 1 / journeys.users) / noise)
    for b in range(windows):
        ref, window = journeys.split(rng, held_out, rows / users)
        scores[b] = [to_real_size * score(ref, window) for score in scorers]
        missing[b] = to_real_size * (window @ absent / max(window.sum(), 1.0) - ref @ absent / ref.sum())
    q = np.quantile(scores, 0.99, axis=0)
    ratios = np.divide(scores, q, out=np.zeros_like(scores), where=q > 0.0)
    k = float(np.quantile(ratios.max(axis=1), 1.0 - alpha, method="higher"))
    return Thresholds(
        score={c: max(FLOORS[METHODS[kinds[c]]], k * float(q[j])) for j, c in enumerate(names)},
        missing={c: max(MISSING_FLOOR, float(np.quantile(missing[:, j], 1.0 - alpha))) for j, c in enumerate(names)},
    )


class _Journeys:
    """Rows by user, ready to be split into a held-out window and the rest."""

    def __init__(self, user: pd.Series) -> None:
        self._code, labels = pd.factorize(user)
        self.users = len(labels)
        self._length = np.bincount(self._code, minlength=self.users)
        self._step = pd.Series(self._code).groupby(self._code).cumcount().to_numpy()

    def split(self, rng: np.random.Generator, held_out: int, rows_per_user: float) -> tuple[Weights, Weights]:
        """Row weights of the remaining reference and of a window of `held_out` random users."""
        chosen = np.zeros(self.users, dtype=bool)
        chosen[rng.permutation(self.users)[:held_out]] = True
        window = chosen[self._code]
        share = rows_per_user * self.users / len(self._code)
        kept = window & self._stretch(rng, share) if share < 1.0 else window
        return (~window).astype(np.float64), kept.astype(np.float64)

    def _stretch(self, rng: np.random.Generator, share: float) -> npt.NDArray[np.bool_]:
        """A stretch of neighbouring touchpoints from each journey: a short time window sees no more of a user."""
        keep = np.floor(self._length * share + rng.random(self.users))
        start = rng.integers(0, self._length)
        return np.asarray((self._step - start[self._code]) % self._length[self._code] < keep[self._code])
