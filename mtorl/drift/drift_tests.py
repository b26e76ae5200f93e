"""The drift tests of a period's columns against the training reference, one definition each.

A new test is one entry of TESTS, and nothing else: thresholds, findings, messages and the report follow from it. Rows
are given by weights, so that a resampled period copies nothing, and many are scored at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import rel_entr

from mtorl.arrays import Floats, Ints

Score = Callable[[Floats, Floats], Floats]
"""Score of a period against the reference, each given by the weight of every row, (rows,); or of several at once, each
given by a column of weights, (rows, periods)."""


class Words(NamedTuple):
    """The words for a problem."""

    kind: Literal["drift", "data_quality"]  # drift explains, data quality breaks: the policy reads nothing
    summary: str  # in an alert, after the column's name
    label: str  # in the report


@dataclass(frozen=True)
class DriftTest:
    """One test of a column."""

    problem: str  # name of a finding in drift.json
    words: Words
    kinds: tuple[str, ...]  # of the columns that it applies to
    method: str  # name of its score
    scorer: Callable[[pd.Series], Score]  # of a column
    floor: float  # a score below it is too small to matter, however certain
    message: str  # with score, threshold, method, missing (share) and reference_missing
    evidently: bool = False  # the method is one of Evidently's: its page shows it, its figure counts
    joint: bool = True  # whether its threshold keeps the false-alarm rate over all columns together, or of one column


class NumericDistance:
    """Evidently's "wasserstein": first Wasserstein distance over the reference's standard deviation."""

    def __init__(self, values: pd.Series) -> None:
        x = values.to_numpy(dtype=np.float64)
        present = np.flatnonzero(~np.isnan(x))
        distinct, code = np.unique(x[present], return_inverse=True)
        self._gaps = np.diff(distinct)
        # Centred on the median: one huge value would move the mean so far that the others' differences are rounded off.
        self._from_median = distinct - np.median(x[present]) if len(present) else distinct
        self._totals = _totals_by(code, present, (len(distinct), len(x)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Scores of periods against the reference, as `Score` has it."""
        r, p = self._totals @ reference, self._totals @ period
        known = (r.sum(0) > 0.0) & (p.sum(0) > 0.0)
        in_r, in_p = np.where(known, r.sum(0), 1.0), np.where(known, p.sum(0), 1.0)
        variance = _dot(self._from_median**2, r) / in_r - (_dot(self._from_median, r) / in_r) ** 2
        std = np.sqrt(np.maximum(variance, 0.0))
        # Normalised after the cumulative sum: beyond the last value that has weight, both are 1, and the gap is 0.
        cdf_gap = np.abs(np.cumsum(p, axis=0)[:-1] / in_p - np.cumsum(r, axis=0)[:-1] / in_r)
        return np.where(known, _dot(self._gaps, cdf_gap) / np.maximum(std, 0.001), 0.0)


class CategoricalDistance:
    """Evidently's "jensenshannon": Jensen-Shannon distance (natural logarithm) of the category shares."""

    def __init__(self, values: pd.Series) -> None:
        codes, labels = pd.factorize(values)
        present = np.flatnonzero(codes >= 0)
        self._totals = _totals_by(codes[present], present, (len(labels), len(codes)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Scores of periods against the reference, as `Score` has it."""
        p, q = self._totals @ reference, self._totals @ period
        known = (p.sum(0) > 0.0) & (q.sum(0) > 0.0)
        p, q = p / np.where(known, p.sum(0), 1.0), q / np.where(known, q.sum(0), 1.0)
        m = (p + q) / 2
        divergence = rel_entr(p, m).sum(0) + rel_entr(q, m).sum(0)
        return np.where(known, np.sqrt(np.maximum(divergence, 0.0) / 2), 0.0)


class MissingShareRise:
    """Rise of the share of missing values over the reference."""

    def __init__(self, values: pd.Series) -> None:
        self._absent = np.flatnonzero(values.isna())

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Scores of periods against the reference, as `Score` has it."""
        rows = self._absent
        return np.asarray(
            period[rows].sum(0) / np.maximum(period.sum(0), 1.0) - reference[rows].sum(0) / reference.sum(0)
        )


def _totals_by(code: Ints, row: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """A matrix that adds up the weights of the rows of each code."""
    return sparse.csr_array((np.ones(len(row)), (code, row)), shape=shape)


def _dot(a: Floats, b: Floats) -> Floats:
    """Dot product on one thread: for sums this small, BLAS's threads would wait for each other longer than they add."""
    return np.asarray(np.einsum("i,i...->...", a, b))


def _distance(kind: str, method: str, scorer: Callable[[pd.Series], Score], floor: float) -> DriftTest:
    """A test by a distance from the reference, one of Evidently's."""
    words = Words("drift", "has moved away from the training data", "drifted")
    message = "{method} {score:.3f}, threshold {threshold:.3f}"
    return DriftTest("drift", words, (kind,), method, scorer, floor, message, evidently=True)


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
    _distance("numeric", "wasserstein", NumericDistance, floor=0.05),
    _distance("categorical", "jensenshannon", CategoricalDistance, floor=0.03),
)

# Problems of a column that no test applies to.
UNTESTABLE: Mapping[str, Words] = {
    "no_values": Words("data_quality", "has no usable value", "no values"),
    "no_column": Words("data_quality", "is missing", "no column"),
    "no_score": Words("data_quality", "has values that cannot be compared", "no score"),
}


def words_of(problem: str) -> Words:
    """The words for a problem, whether a test found it or it keeps a column from being tested."""
    return {**UNTESTABLE, **{test.problem: test.words for test in TESTS}}[problem]


def asked_of(kind: str) -> tuple[DriftTest, ...]:
    """The tests of a column of this kind."""
    return tuple(test for test in TESTS if kind in test.kinds)
