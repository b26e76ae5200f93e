"""The drift tests: what is asked of a column of a period, against the training reference. One definition each.

A new test is one entry of TESTS, and nothing else: thresholds, findings, messages and the report follow from it.

    DriftTest(
        problem="drift",                    # what a finding is called in drift.json
        words=MOVED,                        # how messages and the report say it
        kinds=("numeric",),                 # columns that it is asked of
        method="wasserstein",               # name of its score
        scorer=NumericDistance,             # column -> function that scores a period against the reference
        floor=0.05,                         # below this a score is too small to matter, however sure one is of it
        message="{method} {score:.3f}, threshold {threshold:.3f}",
        evidently=True,                     # the method is one of Evidently's: its page shows it, its figure counts
    )

Rows are given by weights, so that a resampled period copies nothing and a score is one pass over a column that was
sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from mtorl.arrays import Floats

Score = Callable[[Floats, Floats], float]
"""Score of a period against the reference, each given by the weight of every row."""


class Words(NamedTuple):
    """How people read about a problem."""

    kind: Literal["drift", "data_quality"]  # drift explains, data quality breaks: the policy reads nothing
    summary: str  # in an alert, after the column's name
    label: str  # in the report


@dataclass(frozen=True)
class DriftTest:
    """One question that is asked of a column; see the module for an example."""

    problem: str
    words: Words
    kinds: tuple[str, ...]
    method: str
    scorer: Callable[[pd.Series], Score]
    floor: float
    message: str  # with score, threshold, method, missing (share) and reference_missing
    evidently: bool = False
    joint: bool = True  # whether its threshold keeps the false-alarm rate over all columns together, or of one column


class NumericDistance:
    """Evidently's "wasserstein": first Wasserstein distance over the reference's standard deviation."""

    def __init__(self, values: pd.Series) -> None:
        x = values.to_numpy(dtype=np.float64)
        order = np.argsort(x, kind="stable")
        self._rows = order[: np.count_nonzero(~np.isnan(x))]  # NaN sorts last
        x = x[self._rows]
        self._last = np.flatnonzero(np.append(x[1:] != x[:-1], len(x) > 0))  # row of each distinct value
        self._x = x[self._last]
        self._gaps = np.diff(self._x)

    def __call__(self, reference: Floats, period: Floats) -> float:
        """Score of the period against the reference, each given by the weight of every row."""
        r, p = (np.cumsum(weights[self._rows])[self._last] for weights in (reference, period))
        if not len(r) or r[-1] == 0.0 or p[-1] == 0.0:
            return 0.0
        weight = np.diff(r, prepend=0.0) / r[-1]
        mean = _dot(weight, self._x)
        std = np.sqrt(_dot(weight, (self._x - mean) ** 2))
        cdf_gap = np.abs(p / p[-1] - r / r[-1])[:-1]
        return _dot(cdf_gap, self._gaps) / max(float(std), 0.001)


class CategoricalDistance:
    """Evidently's "jensenshannon": Jensen-Shannon distance (natural logarithm) of the category shares."""

    def __init__(self, values: pd.Series) -> None:
        codes, labels = pd.factorize(values)
        self._codes = codes + 1  # 0: missing
        self._size = len(labels) + 1

    def __call__(self, reference: Floats, period: Floats) -> float:
        """Score of the period against the reference, each given by the weight of every row."""
        p = np.bincount(self._codes, reference, self._size)[1:]
        q = np.bincount(self._codes, period, self._size)[1:]
        if p.sum() == 0.0 or q.sum() == 0.0:
            return 0.0
        p, q = p / p.sum(), q / q.sum()
        m = (p + q) / 2
        divergence = _relative_entropy(p, m) + _relative_entropy(q, m)
        return float(np.sqrt(max(divergence, 0.0) / 2))


class MissingShareRise:
    """How much larger the share of missing values is than in the reference."""

    def __init__(self, values: pd.Series) -> None:
        self._absent = np.flatnonzero(values.isna())

    def __call__(self, reference: Floats, period: Floats) -> float:
        """Score of the period against the reference, each given by the weight of every row."""
        rows = self._absent
        return float(period[rows].sum() / max(period.sum(), 1.0) - reference[rows].sum() / reference.sum())


def _dot(a: Floats, b: Floats) -> float:
    """On one thread: those of BLAS wait for each other longer than sums of this size take."""
    return float(np.einsum("i,i", a, b))


def _relative_entropy(p: Floats, m: Floats) -> float:
    some = p > 0.0
    return _dot(p[some], np.log(p[some] / m[some]))


MOVED = Words("drift", "has moved away from the training data", "drifted")
_DISTANCE = "{method} {score:.3f}, threshold {threshold:.3f}"

# The first test that finds something names the problem of the column; if none does, the last one's score is reported.
TESTS = (
    DriftTest(
        problem="missing_values",
        words=Words("data_quality", "has lost values", "values missing"),
        kinds=("numeric", "categorical"),
        method="missing_share_rise",
        scorer=MissingShareRise,
        floor=0.05,
        message="{missing:.1%} of values missing, {reference_missing:.1%} in the reference",
        joint=False,
    ),
    DriftTest(
        problem="drift",
        words=MOVED,
        kinds=("numeric",),
        method="wasserstein",
        scorer=NumericDistance,
        floor=0.05,
        message=_DISTANCE,
        evidently=True,
    ),
    DriftTest(
        problem="drift",
        words=MOVED,
        kinds=("categorical",),
        method="jensenshannon",
        scorer=CategoricalDistance,
        floor=0.03,
        message=_DISTANCE,
        evidently=True,
    ),
)

# Problems of a column that no test can be asked of.
UNTESTABLE: Mapping[str, Words] = {
    "no_values": Words("data_quality", "has no usable value", "no values"),
    "no_column": Words("data_quality", "is missing", "no column"),
    "no_score": Words("data_quality", "has values that cannot be compared", "no score"),
}


def words_of(problem: str) -> Words:
    """How people read about a problem: one that a test found, or one that keeps a column from being tested."""
    return {**UNTESTABLE, **{test.problem: test.words for test in TESTS}}[problem]


def asked_of(kind: str) -> tuple[DriftTest, ...]:
    """The tests of a column of this kind."""
    return tuple(test for test in TESTS if kind in test.kinds)
