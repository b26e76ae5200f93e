"""Defines the drift tests, which compare each column of a period with a reference sample of the training data.

To add a test, add an entry to TESTS.
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
"""Type of a function that returns how much periods differ from the reference. A period is given by one weight per row
of values. The weights of one period have the shape (rows,), those of several periods (rows, periods)."""


class Words(NamedTuple):
    """The texts with which a report or an alert describes a problem of a column."""

    kind: Literal["drift", "data_quality"]  # "drift": the values changed. "data_quality": the column is unusable
    summary: str  # rest of the sentence that begins with the name of the column


@dataclass(frozen=True)
class DriftTest:
    """A test that computes the score of a column, and reports scores above a threshold."""

    problem: str  # name of the problem in drift.json
    words: Words
    kinds: tuple[str, ...]  # kinds of columns that the test applies to: "numeric", "categorical"
    method: str  # name of the score
    scorer: Callable[[pd.Series], Score]  # creates the scoring function for a column
    floor: float  # smaller scores are never reported
    message: str  # text with the placeholders `found` (the finding in drift.json) and `change` (see `change`)
    # whether the library Evidently computes the same score
    evidently: bool = False
    joint: bool = True  # whether the false-alarm rate applies to all columns together or to each column


class NumericDistance:
    """Scores a numeric column by its Wasserstein distance from the reference, in standard deviations of the reference.

    The score equals Evidently's "wasserstein".
    """

    def __init__(self, values: pd.Series) -> None:
        x = values.to_numpy(dtype=np.float64)
        present = np.flatnonzero(~np.isnan(x))
        distinct, code = np.unique(x[present], return_inverse=True)
        self._gaps = np.diff(distinct)
        # Subtract the median: one huge value moves the mean so far that rounding hides other differences.
        self._from_median = distinct - np.median(x[present]) if len(present) else distinct
        self._totals = _totals_by(code, present, (len(distinct), len(x)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return the score of each period, given weights of rows."""
        r, p = self._totals @ reference, self._totals @ period
        known = (r.sum(0) > 0.0) & (p.sum(0) > 0.0)
        in_r, in_p = np.where(known, r.sum(0), 1.0), np.where(known, p.sum(0), 1.0)
        variance = _dot(self._from_median**2, r) / in_r - (_dot(self._from_median, r) / in_r) ** 2
        std = np.sqrt(np.maximum(variance, 0.0))
        # Divide by the last values, so that both distribution functions end at exactly 1.
        cdf_gap = np.abs(np.cumsum(p, axis=0)[:-1] / in_p - np.cumsum(r, axis=0)[:-1] / in_r)
        return np.where(known, _dot(self._gaps, cdf_gap) / np.maximum(std, 0.001), 0.0)


class CategoricalDistance:
    """Scores a categorical column by the Jensen-Shannon distance between its category shares and the reference's.

    The score equals Evidently's "jensenshannon".
    """

    def __init__(self, values: pd.Series) -> None:
        codes, labels = pd.factorize(values)
        present = np.flatnonzero(codes >= 0)
        self._totals = _totals_by(codes[present], present, (len(labels), len(codes)))

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return the score of each period, given weights of rows."""
        p, q = self._totals @ reference, self._totals @ period
        known = (p.sum(0) > 0.0) & (q.sum(0) > 0.0)
        p, q = p / np.where(known, p.sum(0), 1.0), q / np.where(known, q.sum(0), 1.0)
        m = (p + q) / 2
        divergence = rel_entr(p, m).sum(0) + rel_entr(q, m).sum(0)
        return np.where(known, np.sqrt(np.maximum(divergence, 0.0) / 2), 0.0)


class MissingShareRise:
    """Scores a column by how much its share of missing values exceeds the reference's share."""

    def __init__(self, values: pd.Series) -> None:
        self._absent = np.flatnonzero(values.isna())

    def __call__(self, reference: Floats, period: Floats) -> Floats:
        """Return the score of each period, given weights of rows."""
        rows = self._absent
        return np.asarray(
            period[rows].sum(0) / np.maximum(period.sum(0), 1.0) - reference[rows].sum(0) / reference.sum(0)
        )


def _totals_by(code: Ints, row: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Return a matrix that turns weights of rows into the total weight of each code."""
    return sparse.csr_array((np.ones(len(row)), (code, row)), shape=shape)


def _dot(a: Floats, b: Floats) -> Floats:
    """Multiply a vector by each column of a matrix without BLAS, whose threads are slow for small sums."""
    return np.asarray(np.einsum("i,i...->...", a, b))


def change(reference: pd.Series, period: pd.Series) -> str:
    """Describe the change of a column in words: its mean, or the category that changed most."""
    if period.dtype.kind == "f":
        return f"mean {period.mean():.4g}, in training {reference.mean():.4g}"
    now, before = (rows.value_counts(normalize=True) for rows in (period, reference))
    label = now.sub(before, fill_value=0.0).abs().idxmax()
    return f"{label!r:.40} in {now.get(label, 0.0):.1%} of the rows, in training {before.get(label, 0.0):.1%}"


def _distance(kind: str, method: str, scorer: Callable[[pd.Series], Score], floor: float, unit: str) -> DriftTest:
    words = Words("drift", "has moved away from the training data")
    message = f"{{change}}; {{found.method}} {{found.score:.3f}} {unit}, threshold {{found.threshold:.3f}}"
    return DriftTest("drift", words, (kind,), method, scorer, floor, message, evidently=True)


# The first test that finds a problem in a column determines the report of the column.
TESTS = (
    DriftTest(
        problem="missing_values",
        words=Words("data_quality", "has lost values"),
        kinds=("numeric", "categorical"),
        method="missing_share_rise",
        scorer=MissingShareRise,
        floor=0.05,
        message="{found.missing_share:.1%} of values missing, {found.reference_missing_share:.1%} in the reference",
        joint=False,
    ),
    _distance("numeric", "wasserstein", NumericDistance, floor=0.05, unit="standard deviations"),
    _distance("categorical", "jensenshannon", CategoricalDistance, floor=0.03, unit="of at most 0.833"),
)

# Problems that make every test of a column impossible.
UNTESTABLE: Mapping[str, Words] = {
    "no_values": Words("data_quality", "has no usable value"),
    "no_column": Words("data_quality", "is missing"),
    "no_score": Words("data_quality", "has values that cannot be compared"),
}


def words_of(problem: str) -> Words:
    """Return the texts for a problem from TESTS or UNTESTABLE."""
    return {**UNTESTABLE, **{test.problem: test.words for test in TESTS}}[problem]


def asked_of(kind: str) -> tuple[DriftTest, ...]:
    """Return the tests that apply to a column of the kind "numeric" or "categorical"."""
    return tuple(test for test in TESTS if kind in test.kinds)
